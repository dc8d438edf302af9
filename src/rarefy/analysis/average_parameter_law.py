"""A scaling law in the mean number of parameters over training: one for dense and sparse pre-training."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from rarefy.analysis.fit import as_column, fit_log_law
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method


@method(
    "average-parameter-scaling-law", role="study", source="Jin et al. 2025, arXiv:2501.12486, section 4", protocols=()
)
@dataclass(frozen=True)
class AverageParameterLaw:
    """L = E + A / Nbar^alpha + B / D^beta, with Nbar the mean number of non-zero parameters over the training data.

    Of a dense model Nbar is its size. The defaults are Chinchilla's coefficients (Hoffmann et al. 2022, approach 3), of
    which this law keeps the form; fit your own runs.
    """

    e: float = 1.69
    a: float = 406.4
    b: float = 410.7
    alpha: float = 0.34
    beta: float = 0.28

    def predict(self, parameters: float, data: float) -> float:
        """The loss at a mean number of parameters and an amount of data (tokens)."""
        return self.e + self.a * parameters**-self.alpha + self.b * data**-self.beta

    @classmethod
    def fit(
        cls,
        parameters: Sequence[float] | Tensor,
        data: Sequence[float] | Tensor,
        losses: Sequence[float] | Tensor,
        *,
        delta: float = 1e-3,
    ) -> "AverageParameterLaw":
        """The law of some runs, dense and sparse together: Huber's loss on log L, L-BFGS from a grid of starts."""
        loss = as_column("losses", losses)
        n, d = as_column("parameters", parameters, len(loss)), as_column("data", data, len(loss))
        if len(loss) < 5:
            raise DataError(f"fit: {len(loss)} runs cannot settle 5 coefficients; give more, of several sizes and data")
        unit_n, unit_d = float(n.log().mean().exp()), float(d.log().mean().exp())

        def predict(p: Tensor) -> Tensor:
            e, a, b, alpha, beta = p.exp()
            return e + a * (n / unit_n) ** -alpha + b * (d / unit_d) ** -beta

        low = float(loss.min())
        grid = product((0.2 * low, 0.8 * low), (0.1 * low, 0.5 * low), (0.1 * low, 0.5 * low), (0.2, 0.6), (0.2, 0.6))
        starts = [torch.tensor(start, dtype=torch.float64).log().tolist() for start in grid]
        e, a, b, alpha, beta = torch.tensor(fit_log_law(predict, loss, starts, delta=delta)).exp().tolist()
        return cls(e, a * unit_n**alpha, b * unit_d**beta, alpha, beta)


def average_parameters(counts: Sequence[float], steps: Sequence[float]) -> float:
    """The mean over training of a number of parameters that changes at steps: `counts[i]` from `steps[i]` to
    `steps[i + 1]`, so `steps` has one entry more.

    >>> average_parameters([100, 50], [0, 1, 4])
    62.5
    """
    if len(steps) != len(counts) + 1 or not counts:
        raise DataError(f"average_parameters: {len(counts)} counts need {len(counts) + 1} steps, not {len(steps)}")
    spans = [b - a for a, b in pairwise(steps)]
    if min(spans) < 0 or sum(spans) <= 0:
        raise DataError("average_parameters: steps have to rise")
    return sum(c * s for c, s in zip(counts, spans, strict=True)) / sum(spans)


def compute_window(sparsity: float, total_steps: int, *, begin: float = 0.25, end: float = 0.75) -> tuple[float, float]:
    """The steps between which gradual pruning runs over the shares `begin` to `end` of the training COMPUTE.

    A step costs as much as the weights that are left, so the window lies early in the steps: 25 % and 75 % of the
    compute at 80 % zeros are 12 % and 41 % of the steps. Cubic schedule; not rounded.
    """
    if not 0.0 <= sparsity < 1.0 or not 0.0 <= begin <= end <= 1.0:
        raise SparsityError(f"compute_window: sparsity={sparsity}, begin={begin}, end={end} have to lie in [0, 1)")
    inside = 1.0 - 0.75 * sparsity  # mean density of the cubic
    parts = [begin, (end - begin) / inside, (1.0 - end) / (1.0 - sparsity)]  # steps for one unit of compute
    unit = total_steps / sum(parts)
    return parts[0] * unit, (parts[0] + parts[1]) * unit
