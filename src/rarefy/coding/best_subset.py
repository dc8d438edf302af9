"""The best k neurons for a ridge classifier, proved: cutting planes with a branch-and-bound master."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import DataError
from rarefy.core.shapes import Bool, Float


@dataclass(frozen=True)
class Subset:
    """neurons: the support, rising; objective: its loss; gap: how far the proved bound lies below, as a share of it."""

    neurons: tuple[int, ...]
    objective: float
    gap: float
    cuts: int


def subset_loss(x: Tensor, y: Tensor, neurons: tuple[int, ...], gamma: float) -> tuple[float, Tensor]:
    """min over w on the support of |y - X w|^2 / 2 + |w|^2 / (2 gamma), and its slope in s, -gamma/2 (x_j' a)^2.

    In the dual the value is y' (I + gamma sum s_j x_j x_j')^-1 y / 2: convex in s, so its tangents bound it from below.
    """
    part = x[:, list(neurons)]
    small = torch.eye(part.shape[1], dtype=x.dtype) / gamma + part.T @ part
    dual = y - part @ torch.linalg.solve(small, part.T @ y)  # (I + gamma X X')^-1 y by Woodbury
    return float(y @ dual) / 2, -gamma / 2 * (x.T @ dual).square()


def best_subset(
    x: Float[Tensor, "samples width"],
    label: Bool[Tensor, "samples"],
    k: int,
    *,
    gamma: float | None = None,
    gap: float = 1e-6,
    cuts: int = 400,
) -> Subset:
    """The support of k neurons with the least ridge loss of labels -1 and 1, or the best found after so many cuts.

    x is standardised here. gamma: inverse of the ridge, by default 10 / samples. Meant for small k and width (tens).
    Source: Bertsimas and Van Parys 2020, arXiv:1709.10029, section 3, as used by Gurnee et al. 2023, arXiv:2305.01610.
    Differs: squared loss, where they take the hinge; the value of a support is then exact, without an inner solver.
    """
    if not 0 < k <= x.shape[1] or len(x) != len(label):
        raise DataError(f"best_subset: k={k} of {x.shape[1]} neurons, {len(x)} samples and {len(label)} labels")
    x = x.double()
    z = (x - x.mean(0)) / x.std(0).clamp_min(1e-12)
    y = label.double() * 2 - 1
    y = y - y.mean()
    gamma = 10.0 / len(x) if gamma is None else gamma
    now = tuple(sorted(torch.topk((z.T @ y).abs(), k).indices.tolist()))
    best, best_value, bound = now, float("inf"), -float("inf")
    planes: list[tuple[float, Tensor]] = []
    while len(planes) < cuts:
        value, slope = subset_loss(z, y, now, gamma)
        planes.append((value - float(slope[list(now)].sum()), slope))
        if value < best_value:
            best, best_value = now, value
        now, bound = _master(planes, k, best_value)
        if bound >= best_value - gap * abs(best_value):
            return Subset(best, best_value, 0.0, len(planes))
    return Subset(best, best_value, (best_value - bound) / abs(best_value), len(planes))


def _master(planes: list[tuple[float, Tensor]], k: int, ceiling: float) -> tuple[tuple[int, ...], float]:
    """The s with the least maximum of all planes, by depth-first branch and bound over the neurons.

    A partial choice is bounded by each plane with its best completion; slopes are never positive.
    """
    base = torch.tensor([value for value, _ in planes], dtype=torch.float64)
    slope = torch.stack([s for _, s in planes])
    order = slope.mean(0).argsort()
    slope = slope[:, order]
    width = slope.shape[1]
    # best[i][r]: (planes,) least sum of r slopes among the neurons from i on
    tails = [slope[:, i:].sort(1).values.cumsum(1) for i in range(width)]
    found: tuple[float, tuple[int, ...]] = (float("inf"), ())
    stack: list[tuple[int, tuple[int, ...], Tensor]] = [(0, (), base)]
    while stack:
        at, chosen, value = stack.pop()
        left = k - len(chosen)
        if left == 0:
            top = float(value.max())
            if top < found[0]:
                found = (top, chosen)
            continue
        if width - at < left or float((value + tails[at][:, left - 1]).max()) >= min(found[0], ceiling):
            continue
        stack.append((at + 1, chosen, value))
        stack.append((at + 1, (*chosen, at), value + slope[:, at]))
    if not found[1]:
        return (), ceiling  # no support is below the best one known: it is proved
    return tuple(sorted(int(order[i]) for i in found[1])), found[0]
