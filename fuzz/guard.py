"""Tensors that end at a page which cannot be touched: a vector access past their end stops the process."""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_UNWRITTEN = b"\xff"  # NaN in every float type, -1 or the largest value as an integer


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory for a contiguous tensor, its last byte before the forbidden page; every entry marked as unwritten."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if size == 0:
        return torch.zeros(shape, dtype=dtype)
    used = -(-size // _PAGE) * _PAGE
    memory = mmap.mmap(-1, used + _PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if _libc.mprotect(start + used, _PAGE, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    memory[used - size : used] = _UNWRITTEN * size
    return torch.frombuffer(memory, dtype=dtype, count=size // dtype.itemsize, offset=used - size).view(shape)


def guarded(tensor: Tensor) -> Tensor:
    """A contiguous copy that ends at a forbidden page."""
    out = empty(tuple(tensor.shape), tensor.dtype)
    return out.copy_(tensor)


@contextmanager
def outputs() -> Iterator[None]:
    """Inside, what rarefy.ops allocates for results is guarded too."""
    plain = (torch.empty, torch.empty_like, torch.Tensor.new_empty)

    def instead_of_empty(*shape: Any, dtype: torch.dtype | None = None, **more: Any) -> Tensor:
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return plain[0](*shape, dtype=dtype, **more) if more else empty(tuple(sizes), dtype or torch.float32)

    def instead_of_empty_like(x: Tensor, **more: Any) -> Tensor:
        return plain[1](x, **more) if more else empty(tuple(x.shape), x.dtype)

    def instead_of_new_empty(x: Tensor, *shape: Any, dtype: torch.dtype | None = None, **more: Any) -> Tensor:
        return instead_of_empty(*shape, dtype=dtype or x.dtype, **more)

    torch.empty, torch.empty_like, torch.Tensor.new_empty = (  # type: ignore[method-assign, assignment]
        instead_of_empty,
        instead_of_empty_like,
        instead_of_new_empty,
    )
    try:
        yield
    finally:
        torch.empty, torch.empty_like, torch.Tensor.new_empty = plain  # type: ignore[method-assign]
