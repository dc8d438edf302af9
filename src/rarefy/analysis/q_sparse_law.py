"""A scaling law of models whose activations are sparse."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.analysis.fit import as_column, fit_log_law
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method


@method("q-sparse-law", role="study", source="Wang et al. 2024 (Q-Sparse), arXiv:2407.10969, eq. 8 to 12", protocols=())
@dataclass(frozen=True)
class QSparseLaw:
    """L(N, S) = E + A(S) / N^alpha with A(S) = B + C exp(beta / (1 - S)).

    N: parameters in `unit`; S: sparsity of the activations. No defaults: a family of runs has its own
    coefficients.
    """

    e: float
    b: float
    c: float
    beta: float
    alpha: float
    unit: float = 1.0

    def predict(self, parameters: float, sparsity: float) -> float:
        """The loss of a model with `parameters` weights whose activations have that sparsity."""
        _check(sparsity)
        return self.e + self._scale(sparsity) * (parameters / self.unit) ** -self.alpha

    def at_equal_active(self, active: float, sparsity: float) -> float:
        """The loss of a model that multiplies by `active` weights a token: it has active / (1 - S) of them."""
        return self.predict(active / (1.0 - sparsity), sparsity)

    def optimal_sparsity(self) -> float:
        """The sparsity of least loss at equal active parameters, whatever their number; to 1e-6, below 0.999.

        It is the minimum of A(S) (1 - S)^alpha, which does not hold N.
        """
        grid = torch.linspace(0.0, 0.999, 2000, dtype=torch.float64).tolist()
        best = min(range(len(grid)), key=lambda i: self._cost(grid[i]))
        low, high = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
        while high - low > 1e-6:
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, right) if self._cost(left) < self._cost(right) else (left, high)
        return (low + high) / 2

    def _scale(self, sparsity: float) -> float:
        return self.b + self.c * float(torch.tensor(self.beta / (1.0 - sparsity), dtype=torch.float64).exp())

    def _cost(self, sparsity: float) -> float:
        return self._scale(sparsity) * (1.0 - sparsity) ** self.alpha

    @classmethod
    def fit(
        cls,
        parameters: Sequence[float] | Tensor,
        sparsity: Sequence[float] | Tensor,
        losses: Sequence[float] | Tensor,
        *,
        starts: int = 24,
        delta: float = 1e-3,
        seed: int = 0,
    ) -> "QSparseLaw":
        """The law of some runs, by Huber's loss on log L from many random starts; unit: their mean N. At least 5."""
        loss = as_column("losses", losses)
        n = as_column("parameters", parameters, len(loss))
        dense = as_column("1 - sparsity", 1.0 - torch.as_tensor(sparsity, dtype=torch.float64), len(loss))
        if len(loss) < 5:
            raise DataError(f"fit: {len(loss)} runs cannot settle 5 coefficients; give more sizes and sparsities")
        unit = float(n.log().mean().exp())

        def predict(p: Tensor) -> Tensor:
            e, b, c, beta, alpha = p.exp()
            return e + (b + c * (beta / dense).exp()) * (n / unit) ** -alpha

        low, generator = float(loss.min()), torch.Generator().manual_seed(seed)
        begin = torch.tensor([0.6 * low, 0.2 * low, 0.02 * low, 0.5, 0.3], dtype=torch.float64).log()
        noise = torch.randn(starts, 5, generator=generator, dtype=torch.float64) * 0.7
        noise[0] = 0.0
        found = fit_log_law(predict, loss, (begin + noise).tolist(), delta=delta)
        e, b, c, beta, alpha = torch.tensor(found, dtype=torch.float64).exp().tolist()
        return cls(e, b, c, beta, alpha, unit)


def _check(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise SparsityError(f"sparsity: {sparsity} is outside [0, 1)")
