"""Which neurons tell two classes apart: rankings from the training split, larger = keep."""

from collections.abc import Callable

import torch
from torch import Tensor

from rarefy.coding.logistic import fit_logistic
from rarefy.core.shapes import Bool, Float

Ranker = Callable[[Float[Tensor, "samples width"], Bool[Tensor, "samples"]], Tensor]


def mean_difference(x: Tensor, label: Tensor) -> Tensor:
    """|mean(x | 1) - mean(x | 0)| of every neuron, (width,)."""
    return (x[label].mean(0) - x[~label].mean(0)).abs()


def f_score(x: Tensor, label: Tensor) -> Tensor:
    """ANOVA's F of two groups: variance between over variance within, (width,)."""
    ones, zeros = x[label], x[~label]
    grand = x.mean(0)
    between = sum(len(g) * (g.mean(0) - grand).square() for g in (ones, zeros))
    within = sum((g - g.mean(0)).square().sum(0) for g in (ones, zeros)) / (len(x) - 2)
    return torch.as_tensor(between) / torch.as_tensor(within).clamp_min(1e-30)


def mutual_information(x: Tensor, label: Tensor, bins: int = 16) -> Tensor:
    """Nats between the label and the neuron's value in `bins` classes of equal frequency, (width,)."""
    marks = torch.quantile(x, torch.linspace(0, 1, bins + 1, dtype=x.dtype)[1:-1], dim=0)  # (bins - 1, width)
    place = (x[:, None] > marks[None]).sum(1)
    share = torch.stack([(place[rows] == b).double().sum(0) for rows in (label, ~label) for b in range(bins)])
    joint = share.view(2, bins, -1) / len(x)
    alone = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    return torch.where(joint > 0, joint * (joint / alone.clamp_min(1e-30)).log(), torch.zeros_like(joint)).sum((0, 1))


def l1_logistic(x: Tensor, label: Tensor, *, steps: int = 300, levels: int = 20) -> Tensor:
    """The largest L1 weight at which logistic regression still uses the neuron, then the size of its coefficient.

    Proximal gradient along a falling path of penalties on standardised neurons, (width,).
    """
    z = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
    y = label.to(z.dtype)
    top = float((z.T @ (y - y.mean())).abs().max()) / len(z)
    weight, bias = z.new_zeros(z.shape[1]), torch.logit(y.mean())
    score = torch.zeros_like(weight)
    rate = 4.0 * len(z) / max(1e-30, float(torch.linalg.matrix_norm(z, 2).square()))  # all neurons may be constant
    for level in range(1, levels + 1):
        penalty = top * 0.8**level
        for _ in range(max(1, steps // levels)):
            gap = torch.sigmoid(z @ weight + bias) - y
            moved = weight - rate * (z.T @ gap) / len(z)
            weight = moved.sign() * (moved.abs() - rate * penalty).clamp_min(0)
            bias = bias - gap.mean()
        score = torch.maximum(score, (levels - level + 1) * (weight != 0).to(z.dtype))
    return score + weight.abs() / (1.0 + weight.abs())


def adaptive(x: Tensor, label: Tensor, *, k: int = 1, shrink: float = 0.5) -> Tensor:
    """Adaptive thresholding: fit on the survivors, drop the smallest coefficients, down to k by the factor `shrink`.

    The rank of a neuron is the round in which it fell, and among the last k its coefficient, (width,).
    """
    z = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
    alive, score, round_ = torch.arange(x.shape[1]), torch.zeros(x.shape[1], dtype=x.dtype), 0
    while True:
        size = fit_logistic(z[:, alive], label).weight.abs()
        score[alive] = round_ + size / (1.0 + size)
        if len(alive) <= k:
            return score
        left = max(k, int(len(alive) * shrink))
        alive, round_ = alive[size.argsort(descending=True, stable=True)[:left]], round_ + 1


RANKERS: dict[str, Ranker] = {
    "mean-difference": mean_difference,
    "f-score": f_score,
    "mutual-information": mutual_information,
    "l1": l1_logistic,
    "adaptive": adaptive,
}
