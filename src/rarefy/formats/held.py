"""What every stored tensor of a file can do, whatever layout it is stored in."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.core.errors import FileError


@runtime_checkable
class Held(Protocol):
    """A tensor as it lies in the file: `Packed`, `Codes`, `Masked`, `Scaled`, `TorchSparse` or `Delta`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def to_dense(self) -> Tensor:
        """The dense tensor with exact zeros."""
        ...


def dense(entry: "Tensor | Held") -> Tensor:
    return entry if isinstance(entry, Tensor) else entry.to_dense()


def plain(entry: "Tensor | Held", name: str) -> Tensor:
    """The tensor of a part, which no file has reason to store in parts again (and a small one could claim any size)."""
    if not isinstance(entry, Tensor):
        raise FileError(f"tensor {name!r}: it is a part of another and yet stored sparse itself; get the file again")
    return entry
