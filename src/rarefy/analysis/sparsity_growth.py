"""How the density of activations moves with the training data: falling for ReLU, rising for SiLU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.analysis.fit import as_column, fit_log_law
from rarefy.core.errors import DataError


@dataclass(frozen=True)
class ReLUDensityLaw:
    """A(D) = exp(-c D^alpha + b) + A0: the density falls with the tokens D towards A0.

    Source: Luo et al. 2024, arXiv:2411.02335, eq. 4. D is in the unit in which the runs were given.
    """

    c: float
    alpha: float
    b: float
    limit: float

    def predict(self, data: float) -> float:
        """The density after training on `data` tokens."""
        return math.exp(-self.c * data**self.alpha + self.b) + self.limit

    @classmethod
    def fit(
        cls, data: Sequence[float] | Tensor, density: Sequence[float] | Tensor, *, starts: int = 24, seed: int = 0
    ) -> "ReLUDensityLaw":
        """The law of the densities measured during one run; at least 5 of them."""
        d, wanted = _runs(data, density, 5)
        unit = float(d.log().mean().exp())

        def predict(p: Tensor) -> Tensor:
            c, alpha, limit = p[:3].exp()
            return torch.exp(-c * (d / unit) ** alpha + p[3]) + limit

        low, high = float(wanted.min()), float(wanted.max())
        begin = [0.0, math.log(0.5), math.log(low * 0.9), math.log(max(1e-6, high - low))]
        found = fit_log_law(predict, wanted, _starts(begin, starts, seed), delta=1e-3)
        c, alpha, limit = (math.exp(v) for v in found[:3])
        return cls(c * unit**-alpha, alpha, found[3], limit)


@dataclass(frozen=True)
class SiLUDensityLaw:
    """A(D) = A0 - c / D^alpha: the density rises with the tokens D towards A0.

    Source: Luo et al. 2024, arXiv:2411.02335, eq. 5.
    """

    c: float
    alpha: float
    limit: float

    def predict(self, data: float) -> float:
        """The density after training on `data` tokens."""
        return self.limit - self.c / data**self.alpha

    @classmethod
    def fit(
        cls, data: Sequence[float] | Tensor, density: Sequence[float] | Tensor, *, starts: int = 24, seed: int = 0
    ) -> "SiLUDensityLaw":
        """The law of the densities measured during one run; at least 4 of them."""
        d, wanted = _runs(data, density, 4)
        unit = float(d.log().mean().exp())

        def predict(p: Tensor) -> Tensor:
            c, alpha, limit = p.exp()
            return (limit - c * (d / unit) ** -alpha).clamp_min(1e-9)

        low, high = float(wanted.min()), float(wanted.max())
        begin = [math.log(max(1e-6, high - low) * 0.5), math.log(0.5), math.log(high * 1.05)]
        found = fit_log_law(predict, wanted, _starts(begin, starts, seed, 0.4), delta=1e-3)
        c, alpha, limit = (math.exp(v) for v in found)
        return cls(c * unit**alpha, alpha, limit)


def _starts(begin: list[float], count: int, seed: int, spread: float = 0.7) -> list[list[float]]:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(begin), generator=generator, dtype=torch.float64) * spread
    noise[0] = 0.0
    found: list[list[float]] = (torch.tensor(begin, dtype=torch.float64) + noise).tolist()
    return found


def _runs(data: Sequence[float] | Tensor, density: Sequence[float] | Tensor, least: int) -> tuple[Tensor, Tensor]:
    wanted = as_column("density", density)
    if len(wanted) < least:
        raise DataError(f"fit: {len(wanted)} measurements cannot settle the law; give at least {least}")
    return as_column("data", data, len(wanted)), wanted
