"""Lists of positions and entries, with little memory beside them: torch's own ways take an index of eight bytes an
entry and more."""

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError

_PART = 2**16  # entries at a time


def number_type(below: int) -> torch.dtype:
    """The smaller integer type that holds all numbers below the bound."""
    return torch.int32 if below <= 2**31 - 1 else torch.int64


def picked(values: Tensor, where: Tensor) -> Tensor:
    """`values[where]` of one dimension; where: bool."""
    out, at = values.new_empty(int(where.count_nonzero())), 0
    for value, here in zip(values.split(_PART), where.split(_PART), strict=True):
        found = value[here]
        out[at : at + len(found)] = found
        at += len(found)
    return out


def put_at(out: Tensor, where: Tensor, values: Tensor) -> None:
    """`out[where] = values` of one dimension; where: bool, with as many true as there are values."""
    at = 0
    for part, here in zip(out.split(_PART), where.split(_PART), strict=True):
        count = int(here.count_nonzero())
        part[here] = values[at : at + count].to(out.dtype)
        at += count


def find(among: Tensor, wanted: Tensor) -> Tensor:
    """The place of each wanted number in an ascending list, -1 where it is not there; in the list's type."""
    out = torch.full_like(wanted, -1, dtype=among.dtype)
    if not among.numel():
        return out
    for found, part in zip(out.split(_PART), wanted.split(_PART), strict=True):
        at = torch.searchsorted(among, part.to(among.dtype)).clamp_(max=among.numel() - 1)
        found.copy_(at.masked_fill_(among[at] != part, -1))
    return out


def require_distinct(name: str, numbers: Tensor, below: int, what: str) -> None:
    """Refuses what are no numbers in [0, below), each once; `what` they are of."""
    if numbers.dim() != 1 or numbers.dtype not in (torch.int32, torch.int64):
        raise ShapeError(f"Topology.edit: {name} is {numbers.dtype} of shape {tuple(numbers.shape)}; give 1-d integers")
    if not numbers.numel():
        return
    low, high = (int(end) for end in numbers.aminmax())
    if low < 0 or high >= below:
        raise ShapeError(f"Topology.edit: {name} span [{low}, {high}], there are {below} {what}")
    if not is_ascending(numbers) and numbers.unique().numel() != numbers.numel():
        raise ShapeError(f"Topology.edit: {name} has one of the {what} twice; give each once")


def is_ascending(numbers: Tensor) -> bool:
    """Whether each is larger than the one before it."""
    return bool((numbers[1:] > numbers[:-1]).all())
