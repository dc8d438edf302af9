"""The first noun: a tensor whose support is fixed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.bits import pack_bits, unpack_bits
from rarefy.core.errors import ShapeError
from rarefy.core.shapes import Bits, Bool, Float


@dataclass(frozen=True)
class SparseTensor:
    """A matrix of which only the kept entries exist. A plain record, not a `torch.Tensor`.

    shape: `(rows, n)`; values: `(nnz,)` in row-major order of the kept entries, explicit zeros allowed;
    bits: `(rows, ceil(n / 8))` uint8, see `core.bits`.
    """

    shape: tuple[int, int]
    values: Tensor
    bits: Bits

    @classmethod
    def from_dense(cls, weight: Float[Tensor, "rows n"], mask: Bool[Tensor, "_ _"] | None = None) -> "SparseTensor":
        """Keeps what `mask` keeps (the non-zero entries if none is given; -0.0 counts as zero)."""
        mask = weight.ne(0) if mask is None else mask
        if mask.shape != weight.shape:
            raise ShapeError(
                f"SparseTensor.from_dense: mask {tuple(mask.shape)} and weight {tuple(weight.shape)} differ; "
                "give a mask of the weight's shape"
            )
        rows, n = weight.shape
        return cls((rows, n), weight[mask].clone(), pack_bits(mask))

    @property
    def mask(self) -> Bool[Tensor, "rows n"]:
        return unpack_bits(self.bits, self.shape[1])

    @property
    def nnz(self) -> int:
        return self.values.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of values and bits together."""
        return self.values.numel() * self.values.element_size() + self.bits.numel()

    @property
    def density(self) -> float:
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    def to_dense(self) -> Float[Tensor, "rows n"]:
        """The dense matrix with exact zeros."""
        dense = torch.zeros(self.shape, dtype=self.values.dtype)
        dense[self.mask] = self.values
        return dense
