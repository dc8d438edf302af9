"""How far the outputs of a compiled model are from those of its source."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rarefy.engine.precision import Precision

_ROUNDING = 2e-4  # in float32: largest difference relative to the largest entry of the output
_BROKEN = 0.5  # in narrower types: relative root mean square difference beyond which a result means nothing


def differs(
    output: Any, reference: Any, precision: Precision = Precision(), *, selects: bool = False
) -> tuple[str | None, float]:
    """(how an output differs from the reference by more than the types explain, or None; how far it is from it).

    The distance is the largest over the tensors of ||output - reference|| / ||reference||. selects: inputs are
    selected, so that rounding decides whether one at the edge is used, which moves all that follows by some per cent:
    then one row that agrees to rounding is enough.
    """
    mine, theirs = tree_leaves(output), tree_leaves(reference)
    if len(mine) != len(theirs):
        return f"returns {len(mine)} values, the model {len(theirs)}", float("nan")
    far = 0.0
    for a, b in zip(mine, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not b.is_floating_point():
            continue
        if a.shape != b.shape:
            return f"returns shape {tuple(a.shape)}, the model {tuple(b.shape)}", float("nan")
        distance, largest = _distances(a, b)
        far = max(far, distance)
        moved = selects and distance <= _BROKEN and _nearest(a, b) <= _ROUNDING
        if precision.exact and largest > _ROUNDING and not moved:
            return f"differs by {largest:.1e} of the largest output", far
        if distance > _BROKEN:
            return f"is {distance:.0%} away from the model's outputs ({precision})", far
    return None, far


def _distances(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Relative distance in root mean square, and of the worst entry relative to the largest."""
    gap = _gap(a, b)
    finite = b[b.isfinite()]
    norm = finite.norm().clamp_min(1e-12)
    largest = finite.abs().max() if finite.numel() else torch.tensor(1.0)
    return float(gap.norm() / norm), float(gap.abs().max() / largest.clamp_min(1e-6)) if gap.numel() else 0.0


def _gap(a: Tensor, b: Tensor) -> Tensor:
    """a - b, 0 where both are the same infinity (masked outputs) or no number, infinite where only one is finite."""
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, a - b).nan_to_num(torch.inf, torch.inf, -torch.inf)


def _nearest(a: Tensor, b: Tensor) -> float:
    """The largest difference of the row (last axis) that agrees best, relative to the row's largest entry."""
    gap = _gap(a, b).reshape(-1, a.shape[-1]).abs().amax(1)
    size = b.reshape(-1, b.shape[-1]).nan_to_num(0.0, 0.0, 0.0).abs().amax(1)
    return float((gap / size.clamp_min(1e-6)).min())
