"""What a measured time of a layer belongs to: its sizes, where its zeros lie, and how it is computed."""

import math
from dataclasses import dataclass

from torch import Tensor

_STEPS = 8  # buckets of density for each factor of two: the times within one differ by less than a tenth
_TILES = ((1, 1), (4, 1), (1, 4), (16, 1))


@dataclass(frozen=True)
class Types:
    """The stored and the computed type of a layer.

    static: 8-bit inputs have one scale that is known in advance; cold: the weights come from memory, not from a cache.
    """

    weights: str = "fp32"
    activations: str = "fp32"
    static: bool = False
    cold: bool = False

    def __str__(self) -> str:
        return f"{self.weights}/{self.activations}{'/static' if self.static else ''}{'/cold' if self.cold else ''}"


@dataclass(frozen=True)
class Cell:
    """One layer shape at one token count. Layers of one cell take the same time on one machine.

    shape: (out, in); support: density of the non-zero entries and of the 4x1, 1x4 and 16x1 tiles that hold any, each
    a `bucket`, -1 where the shape has no whole tiles; nnz: of the layer measured; activation: what is fused behind
    the layer.
    """

    shape: tuple[int, int]
    nnz: int
    support: tuple[int, ...]
    tokens: int
    types: Types = Types()
    activation: str = "none"
    bias: bool = True

    @property
    def key(self) -> str:
        """The cell as text, without `nnz`: equal for layers that take the same time."""
        out, width = self.shape
        support = ",".join(map(str, self.support))
        return (
            f"layer {out}x{width} support {support} tokens {self.tokens} {self.types} {self.activation}"
            f"{' bias' if self.bias else ''}"
        )


@dataclass(frozen=True)
class Zeros:
    """Where a weight's zeros lie: `nnz` and `support` as a `Cell` has them. Looked at once for all token counts."""

    nnz: int
    support: tuple[int, ...]


def zeros_of(weight: Tensor) -> Zeros:
    """Of a weight (out, in) with exact zeros; one without any is looked through once."""
    out, width = weight.shape
    nnz = int(weight.count_nonzero())
    kept = None if nnz == weight.numel() > 0 else weight != 0
    support = tuple(
        -1
        if out % rows or width % columns
        else 0
        if kept is None
        else bucket(int(_tiles(kept, rows, columns).count_nonzero()) * rows * columns, out * width)
        for rows, columns in _TILES
    )
    return Zeros(nnz, support)


def cell_of(
    weight: Tensor, tokens: int, types: Types = Types(), *, bias: bool = True, zeros: Zeros | None = None
) -> Cell:
    """The cell of a weight (out, in) with exact zeros. zeros: where they lie, if that is known."""
    found = zeros or zeros_of(weight)
    return Cell((weight.shape[0], weight.shape[1]), found.nnz, found.support, tokens, types, bias=bias)


def _tiles(kept: Tensor, rows: int, columns: int) -> Tensor:
    """Which tiles of `rows` x `columns` hold a kept entry."""
    if rows * columns == 1:
        return kept
    return kept.view(kept.shape[0] // rows, rows, kept.shape[1] // columns, columns).any(3).any(1)


def bucket(kept: int, size: int) -> int:
    """The density as a whole number of eighths of an octave below 1: 0 is full, 8 half, 16 a quarter.

    >>> bucket(64, 64), bucket(32, 64), bucket(0, 64)
    (0, 8, 999)
    """
    return round(-_STEPS * math.log2(kept / size)) if kept else 999


def density(at: int) -> float:
    """The density in the middle of a bucket.

    >>> density(0), density(8), density(16)
    (1.0, 0.5, 0.25)
    """
    return 2.0 ** (-at / _STEPS)
