"""A scaling law in sparsity, non-zero parameters and data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.analysis.fit import as_column, fit_log_law
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method


@method(
    "sparse-scaling-law",
    role="study",
    source="Frantar et al. 2023, arXiv:2309.08520, eq. 1 and section 4",
    protocols=(),
)
@dataclass(frozen=True)
class SparseScalingLaw:
    """L(S, N, D) = (a_S (1 - S)^b_S + c_S) N^-b_N + (a_D / D)^b_D + c.

    S: sparsity; N: non-zero parameters; D: training data (in the unit in which a_D was fitted). The defaults are the
    coefficients reported for T5 on C4.
    """

    a_s: float = 16.8
    b_s: float = 0.722
    c_s: float = 45.0
    b_n: float = 0.245
    a_d: float = 6.90e8
    b_d: float = 0.203
    c: float = 0.651

    def predict(self, sparsity: float, parameters: float, data: float) -> float:
        """The loss of a model with `parameters` non-zero weights at a sparsity, trained on `data`."""
        _check(sparsity)
        capacity = (self.a_s * (1.0 - sparsity) ** self.b_s + self.c_s) * parameters**-self.b_n
        return capacity + (self.a_d / data) ** self.b_d + self.c

    def size_multiplier(self, sparsity: float) -> float:
        """How many times larger a dense model with the same loss on the same data is than the non-zeros of this one.

        >>> [round(SparseScalingLaw().size_multiplier(s), 1) for s in (0.5, 0.75, 0.875)]
        [1.6, 2.2, 2.6]
        """
        _check(sparsity)
        dense, sparse = self.a_s + self.c_s, self.a_s * (1.0 - sparsity) ** self.b_s + self.c_s
        return float((dense / sparse) ** (1.0 / self.b_n))

    def optimal_sparsity(self, parameters: float, flops: float, *, window: tuple[float, float] = (0.25, 0.75)) -> float:
        """The sparsity of least loss for a number of non-zeros and a training budget of `flops` = 6 * weights * data.

        A sparser model of equal non-zeros begins larger, so its steps cost more and it sees less data: the budget
        counts the densities along a cubic schedule between the shares `window` of the steps. To 1e-6; at most 0.999.
        """
        grid = torch.linspace(0.0, 0.999, 2000, dtype=torch.float64)
        best = int(torch.tensor([self._at(float(s), parameters, flops, window) for s in grid]).argmin())
        low, high = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
        while high - low > 1e-6:
            third = (high - low) / 3
            left, right = (self._at(s, parameters, flops, window) for s in (low + third, high - third))
            low, high = (low, high - third) if left < right else (low + third, high)
        return (low + high) / 2

    def _at(self, sparsity: float, parameters: float, flops: float, window: tuple[float, float]) -> float:
        cost = mean_density(sparsity, window) / (1.0 - sparsity)
        return self.predict(sparsity, parameters, flops / (6.0 * parameters * cost))

    @classmethod
    def fit(
        cls,
        sparsity: Sequence[float] | Tensor,
        parameters: Sequence[float] | Tensor,
        data: Sequence[float] | Tensor,
        losses: Sequence[float] | Tensor,
        *,
        starts: int = 24,
        delta: float = 1e-3,
        seed: int = 0,
    ) -> "SparseScalingLaw":
        """The law of some runs, by Huber's loss on log L from many random starts (L-BFGS). At least 7 runs."""
        loss = as_column("losses", losses)
        runs = len(loss)
        density = as_column("1 - sparsity", 1.0 - torch.as_tensor(sparsity, dtype=torch.float64), runs)
        n, d = as_column("parameters", parameters, runs), as_column("data", data, runs)
        if runs < 7:
            raise DataError(
                f"fit: {runs} runs cannot settle 7 coefficients; give more, at several sparsities, sizes and data"
            )
        unit_n, unit_d = float(n.log().mean().exp()), float(d.log().mean().exp())

        def predict(p: Tensor) -> Tensor:
            a_s, b_s, c_s, b_n, a_d, b_d, c = p.exp()
            capacity = (a_s * density**b_s + c_s) * (n / unit_n) ** -b_n
            return capacity + a_d * (d / unit_d) ** -b_d + c

        generator, low = torch.Generator().manual_seed(seed), float(loss.min())
        begin = torch.tensor([0.3 * low, 0.7, 0.3 * low, 0.25, 0.2 * low, 0.25, 0.5 * low], dtype=torch.float64).log()
        noise = torch.randn(starts, 7, generator=generator, dtype=torch.float64) * 0.7
        noise[0] = 0.0
        a_s, b_s, c_s, b_n, a_d, b_d, c = (
            torch.tensor(fit_log_law(predict, loss, (begin + noise).tolist(), delta=delta), dtype=torch.float64)
            .exp()
            .tolist()
        )
        return cls(a_s * unit_n**b_n, b_s, c_s * unit_n**b_n, b_n, unit_d * a_d ** (1.0 / b_d), b_d, c)


def mean_density(sparsity: float, window: tuple[float, float] = (0.25, 0.75)) -> float:
    """The mean density of gradual pruning: dense before the window, cubic inside, final after it."""
    begin, end = window
    if not 0.0 <= begin <= end <= 1.0:
        raise SparsityError(f"window: {window} are shares of the steps, 0 <= begin <= end <= 1")
    return begin + (end - begin) * (1.0 - 0.75 * sparsity) + (1.0 - end) * (1.0 - sparsity)


def _check(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise SparsityError(f"sparsity: {sparsity} is outside [0, 1)")
