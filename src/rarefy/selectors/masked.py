"""What the selectors of inputs share: sizes of entries, and a Selection from a mask."""

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float


def selected(x: Float[Tensor, "tokens width"], mask: Bool[Tensor, "tokens width"]) -> Selection:
    """The kept entries of every token, in order; shorter tokens are padded with index 0 and value 0.

    >>> x = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 0.0]])
    >>> selected(x, x != 0)
    Selection(index=tensor([[0, 2],
            [1, 0]]), value=tensor([[1., 3.],
            [2., 0.]]), size=3)
    """
    rows, columns = mask.nonzero(as_tuple=True)
    longest = int(mask.sum(dim=1).max()) if mask.numel() else 0
    place = (mask.cumsum(dim=1) - 1)[rows, columns]
    index = torch.zeros(len(x), longest, dtype=torch.long, device=x.device)
    value = x.new_zeros(len(x), longest)
    index[rows, place] = columns
    value[rows, place] = x[rows, columns]
    return Selection(index, value, x.shape[1])


def sizes(x: Tensor, weight: Tensor | None) -> Tensor:
    """`|x_j| * weight_j` in float32 or better, of the shape of `x` (..., width)."""
    size = x.abs().to(torch.promote_types(x.dtype, torch.float32))
    return size if weight is None else size * weight


def require_width(what: str, x: Tensor, *vectors: Tensor | None) -> None:
    """Refuses an input whose last axis is not as long as the selector's own vectors."""
    for vector in vectors:
        if vector is None or not vector.dim():
            continue  # one number, which torch compares wherever it lies
        if vector.shape[0] != x.shape[-1]:
            raise ShapeError(
                f"{what}: was made for inputs of {vector.shape[0]} features, the input has {tuple(x.shape)}; "
                "attach it to the layer that it was calibrated on"
            )
        if vector.device != x.device:
            raise ShapeError(
                f"{what}: lies on {vector.device}, the input on {x.device}; calibrate the model where it runs"
            )
