"""The ways to run a compiled model, and which of them a call is nearest to."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rarefy.engine.capture import Example


@dataclass(frozen=True)
class Variant:
    """One way to run the model, chosen for the calls that look like `example` (structure, types, sizes)."""

    example: Example
    run: Callable[..., Any]
    label: str  # "graph", "layers" or "source"


def _leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(str(i), a) for i, a in enumerate(args)] + sorted(kwargs.items())


def distance(example: Example, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float | None:
    """How far the sizes of a call are from an example's; None if its structure or types differ."""
    mine, theirs = _leaves(*example), _leaves(args, kwargs)
    if [name for name, _ in mine] != [name for name, _ in theirs]:
        return None
    return _away([value for _, value in mine], [value for _, value in theirs])


def _away(mine: Any, theirs: Any) -> float | None:
    """Of two arguments, which may hold others; constants have to be the same, 1 and True are not."""
    if isinstance(mine, Tensor) and isinstance(theirs, Tensor):
        alike = mine.dim() == theirs.dim() and mine.dtype == theirs.dtype and mine.shape[2:] == theirs.shape[2:]
        return abs(float(mine.numel() - theirs.numel())) if alike else None
    if type(mine) is not type(theirs):
        return None
    if isinstance(mine, Mapping):
        names = list(mine)
        same = set(names) == set(theirs)
        return _away([mine[name] for name in names], [theirs[name] for name in names]) if same else None
    if isinstance(mine, list | tuple):
        each = [_away(a, b) for a, b in zip(mine, theirs, strict=False)]
        return math.fsum(x for x in each if x is not None) if len(mine) == len(theirs) and None not in each else None
    return 0.0 if mine is theirs or mine == theirs else None


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """What `distance` looks at, as a key; TypeError for arguments that cannot be hashed."""
    every = (*args, *kwargs.values())
    leaves = [(a.shape, a.dtype, a.device) if isinstance(a, Tensor) else (type(a), a) for a in every]
    key = (len(args), *kwargs, *leaves)
    hash(key)
    return key
