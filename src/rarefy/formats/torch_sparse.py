"""Torch's own sparse layouts (COO, CSR, CSC, BSR, BSC) as they come out of a state dict."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import FileError

_MAKE = {
    "torch.sparse_csr": torch.sparse_csr_tensor,
    "torch.sparse_csc": torch.sparse_csc_tensor,
    "torch.sparse_bsr": torch.sparse_bsr_tensor,
    "torch.sparse_bsc": torch.sparse_bsc_tensor,
}
LAYOUTS = ("torch.sparse_coo", *_MAKE)
_LARGEST = 2**48


@dataclass(frozen=True, eq=False)
class TorchSparse:
    """A sparse tensor of torch whose every index was checked."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def to_dense(self) -> Tensor:
        return self.tensor.to_dense()


def from_parts(
    layout: str, indices: tuple[Tensor, ...], values: Tensor, size: tuple[int, ...], name: str
) -> TorchSparse:
    """indices: (indices) of COO, else (compressed, plain). Entries that a COO tensor has twice add up, as in torch."""
    entries = 1
    for n in size:
        entries *= max(1, n)
    try:
        if layout not in LAYOUTS or any(n < 0 for n in size) or entries > _LARGEST:
            raise ValueError(f"{layout} of shape {size}")
        if layout in ("torch.sparse_bsr", "torch.sparse_bsc") and 0 in values.shape[1:]:
            raise ValueError(f"blocks of shape {tuple(values.shape[1:])}")  # torch divides by it
        if layout == "torch.sparse_coo":
            return TorchSparse(torch.sparse_coo_tensor(indices[0], values, size, check_invariants=True))
        compressed, plain = indices
        return TorchSparse(_MAKE[layout](compressed, plain, values, size, check_invariants=True))
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        why = str(error).splitlines()[0]
        raise FileError(
            f"tensor {name!r}: its indices, values and shape do not go together ({why}); get the file again"
        ) from error
