"""The three layers of the Turbo-VBI prior: a weight, its precision, and whether it is there at all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.training.chain import Chain


@dataclass(frozen=True)
class SupportPrior:
    """w ~ N(0, 1 / rho); rho ~ Gamma(on_shape, on_rate) of a weight that is there, Gamma(off_shape, off_rate) else.

    A weight that is not there has a large off_shape / off_rate, which presses it to zero.
    """

    on_shape: float
    on_rate: float
    off_shape: float
    off_rate: float

    def __post_init__(self) -> None:
        values = (self.on_shape, self.on_rate, self.off_shape, self.off_rate)
        if min(values) <= 0.0 or self.off_shape / self.off_rate <= self.on_shape / self.on_rate:
            raise SparsityError(f"SupportPrior{values}: give positive numbers, off_shape / off_rate the larger ratio")

    def precision(self, chance: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        """q(rho) = Gamma(shape, rate) for <s> = chance and <w^2> = square.

        shape = <s> a + <1 - s> a' + 1/2, rate = <s> b + <1 - s> b' + <w^2> / 2.
        """
        shape = chance * self.on_shape + (1.0 - chance) * self.off_shape + 0.5
        return shape, chance * self.on_rate + (1.0 - chance) * self.off_rate + 0.5 * square

    def evidence(self, shape: Tensor, rate: Tensor) -> Tensor:
        """log F(a, b) - log F(a', b'), F(a, b) = b^a / Gamma(a) * exp((a - 1) <ln rho> - b <rho>): of s."""
        mean, log_mean = shape / rate, torch.digamma(shape) - rate.log()
        on = _log_factor(self.on_shape, self.on_rate, mean, log_mean)
        return on - _log_factor(self.off_shape, self.off_rate, mean, log_mean)


def _log_factor(a: float, b: float, mean: Tensor, log_mean: Tensor) -> Tensor:
    constant = a * torch.tensor(b, dtype=mean.dtype).log() - torch.lgamma(torch.tensor(a, dtype=mean.dtype))
    return constant + (a - 1.0) * log_mean - b * mean


def infer(
    square: Tensor, chance: Tensor, prior: SupportPrior, chain: Chain, *, columns: bool = False, sweeps: int = 10
) -> tuple[Tensor, Tensor]:
    """Log odds that each weight is there, and <rho>, from <w^2>; all (out, in).

    Two modules take turns until nothing changes by 1e-3, or for `sweeps` turns: independent weights give the evidence
    of each, the chains along rows (or `columns`) send back what the others say. chance: <s> to begin with.
    """
    square, chance = square.double(), chance.double()
    odds = torch.zeros_like(square)
    for _ in range(sweeps):
        evidence = prior.evidence(*prior.precision(chance, square)).clamp(-60.0, 60.0)
        told = chain.extrinsic(evidence.t()).t() if columns else chain.extrinsic(evidence)
        before, odds = chance, told + evidence
        chance = torch.sigmoid(odds)
        if float((chance - before).abs().max()) < 1e-3:
            break
    shape, rate = prior.precision(chance, square)
    return odds, shape / rate
