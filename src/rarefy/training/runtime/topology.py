"""Which entries of a weight exist while it is trained, as a handle that is checked once and edited in place."""

from typing import Any

import torch
from torch import Tensor

from rarefy.core.bits import padding_is_clear, unpack_bits
from rarefy.core.errors import ShapeError
from rarefy.core.shapes import Bits, Bool, Float, Int
from rarefy.ops import Layer, TrainIndex
from rarefy.training.runtime.move import Move
from rarefy.training.runtime.places import find, is_ascending, number_type, picked, put_at, require_distinct

_MOST_INDEXES = 2  # prepared forms kept at a time: one a size of image
_ROWS = 64  # of a mask at a time


class Topology:
    """The support of a weight of shape `(rows, n)`; entries are numbered in row-major order of the kept ones.

    A convolution's weight is seen as `(out, in / groups * kernel)`. Values are not here: they are a plain `(nnz,)`
    tensor of the caller, in this order.

    >>> topology = Topology(torch.tensor([[True, False], [True, True]]))
    >>> topology.scatter(torch.tensor([1.0, 2.0, 3.0]))
    tensor([[1., 0.],
            [2., 3.]])
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.dim() != 2 or mask.dtype != torch.bool:
            raise ShapeError(
                f"Topology: mask is {mask.dtype} of shape {tuple(mask.shape)}; give a bool (rows, n), True = keep "
                "(flatten a convolution's mask from its second dimension on)"
            )
        self.shape = (mask.shape[0], mask.shape[1])
        self._set(mask.flatten().nonzero().squeeze(1))

    @classmethod
    def from_bits(cls, bits: Tensor, n: int) -> "Topology":
        """From the bits of `Topology.bits`, as a checkpoint holds them."""
        if (
            bits.dim() != 2
            or bits.dtype != torch.uint8
            or bits.shape[1] != (n + 7) // 8
            or not padding_is_clear(bits, n)
        ):
            raise ShapeError(f"Topology.from_bits: {tuple(bits.shape)} {bits.dtype} is no mask of {n} columns")
        return cls(unpack_bits(bits, n))

    def _set(self, positions: Tensor) -> None:
        rows, n = self.shape
        edges = torch.arange(rows + 1, dtype=positions.dtype) * n
        self._offsets = torch.searchsorted(positions, edges)
        self._columns = (positions % max(1, n)).to(torch.int32)
        self._indexes: dict[Layer, TrainIndex] = {}
        self.version = getattr(self, "version", -1) + 1

    @property
    def nnz(self) -> int:
        """Kept entries."""
        return self._columns.numel()

    @property
    def density(self) -> float:
        """The kept share of all entries."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    @property
    def row_counts(self) -> Int[Tensor, " rows"]:
        """Kept entries of each row: the fan-in of each output."""
        return self._offsets.diff()

    @property
    def positions(self) -> Int[Tensor, " nnz"]:
        """`row * n + column` of each entry, ascending."""
        return self.places.long()

    @property
    def places(self) -> Int[Tensor, " nnz"]:
        """The same in four bytes each where the weight is small enough for that."""
        counts = self.row_counts.to(self.places_type)
        return torch.repeat_interleave(counts).mul_(self.shape[1]).add_(self._columns)

    @property
    def places_type(self) -> torch.dtype:
        return number_type(self.shape[0] * self.shape[1])

    def part(self, rows: range) -> tuple[slice, Tensor]:
        """The entries of some rows, and where they lie in these: `(row - rows.start) * n + column`."""
        low, high = int(self._offsets[rows.start]), int(self._offsets[rows.stop])
        counts = self._offsets[rows.start : rows.stop + 1].diff()
        return slice(low, high), torch.repeat_interleave(counts).mul_(self.shape[1]).add_(self._columns[low:high])

    @property
    def mask(self) -> Bool[Tensor, "rows n"]:
        """The dense mask, True = kept."""
        out = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool)
        out[self.places] = True
        return out.view(self.shape)

    @property
    def bits(self) -> Bits:
        """The mask at eight entries a byte, without making it whole."""
        rows, n = self.shape
        out = torch.zeros(rows, (n + 7) // 8, dtype=torch.uint8)
        self.mark(out)
        return out

    def mark(self, bits: Bits) -> None:
        """Sets the bits of what is kept in a mask of eight entries a byte, some rows at a time."""
        rows, width = bits.shape
        for first in range(0, rows if width else 0, _ROWS):
            some = range(first, min(first + _ROWS, rows))
            low, high = int(self._offsets[some.start]), int(self._offsets[some.stop])
            columns = self._columns[low:high]
            row = torch.repeat_interleave(self._offsets[some.start : some.stop + 1].diff())
            ones = torch.ones((), dtype=torch.uint8) << (columns & 7).to(torch.uint8)
            own = torch.zeros(len(some) * width, dtype=torch.uint8)
            bits[some.start : some.stop] |= own.index_add_(0, row.mul_(width).add_(columns >> 3), ones).view(-1, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the topology and of what is prepared for the kernels."""
        return self._offsets.nbytes + self._columns.nbytes + sum(index.nbytes for index in self._indexes.values())

    def let_go(self) -> None:
        """Of what is prepared for the kernels: it takes memory, and is prepared again when it is asked for."""
        self._indexes.clear()

    def index(self, layer: Layer) -> TrainIndex:
        """The prepared index for a layer with this weight; kept until the topology is edited."""
        if layer not in self._indexes:
            if (layer.out, layer.width) != self.shape:
                raise ShapeError(
                    f"Topology.index: the layer's weight is {(layer.out, layer.width)}, this is {self.shape}"
                )
            while len(self._indexes) >= _MOST_INDEXES:
                self._indexes.pop(next(iter(self._indexes)))
            self._indexes[layer] = TrainIndex(layer, self._offsets, self._columns)
        return self._indexes[layer]

    def gather(self, dense: Tensor) -> Tensor:
        """The kept entries `(nnz,)` of a dense tensor with rows * n elements."""
        if dense.numel() != self.shape[0] * self.shape[1]:
            raise ShapeError(
                f"Topology.gather: {tuple(dense.shape)} has not the {self.shape[0]} x {self.shape[1]} entries"
            )
        return dense.reshape(-1)[self.places]

    def scatter(self, values: Tensor) -> Float[Tensor, "rows n"]:
        """The dense `(rows, n)` with exact zeros where nothing is kept."""
        self._require("scatter", values)
        dense = values.new_zeros(self.shape[0] * self.shape[1])
        return dense.scatter(0, self.positions, values).view(self.shape)

    def entries(self, positions: Tensor) -> Tensor:
        """The entry numbers of positions `row * n + column`, -1 where nothing is kept; in the type of `places`."""
        return find(self.places, positions)

    def _require(self, what: str, values: Tensor) -> None:
        if tuple(values.shape) != (self.nnz,):
            raise ShapeError(f"Topology.{what}: values have shape {tuple(values.shape)}, {self.nnz} entries are kept")

    def edit(self, dropped: Tensor, grown: Tensor) -> Move:
        """Takes entries away and adds new ones, in place.

        dropped: entry numbers in [0, nnz); grown: positions `row * n + column` that are not kept (or are just dropped:
        then they come back as fresh ones). Raises `ShapeError` for anything out of range, repeated or already kept,
        and then nothing has changed.
        """
        require_distinct("dropped", dropped, self.nnz, "entries")
        require_distinct("grown", grown, self.shape[0] * self.shape[1], "positions")
        stays = torch.ones(self.nnz, dtype=torch.bool)
        stays[dropped] = False
        kept = picked(self.places, stays)
        grown = grown.to(kept.dtype) if is_ascending(grown) else grown.to(kept.dtype).sort().values
        at = torch.searchsorted(kept, grown)  # as many kept ones lie before each
        taken = kept[at.clamp(max=len(kept) - 1)] == grown if len(kept) else torch.zeros_like(at, dtype=torch.bool)
        if bool(taken.any()):
            where = int(grown[taken][0])
            raise ShapeError(
                f"Topology.edit: position {where} (row {where // self.shape[1]}, column {where % self.shape[1]}) is "
                "kept already; grow where nothing is"
            )
        at += torch.arange(len(grown))
        positions = kept.new_empty(len(kept) + len(grown))
        fresh = torch.zeros(len(positions), dtype=torch.bool)
        fresh[at], positions[at] = True, grown
        put_at(positions, ~fresh, kept)
        self._set(positions)
        return Move(stays, fresh)

    def become(self, other: "Topology") -> None:
        """Takes over another's support, in place."""
        self.move_to(other)  # refuses another shape
        self._set(other.places)

    def move_to(self, other: "Topology") -> Move:
        """How values of this topology become values of another of the same shape."""
        if self.shape != other.shape:
            raise ShapeError(f"Topology.move_to: shapes {self.shape} and {other.shape} differ")
        mine, others = self.places, other.places
        return Move(find(others, mine) >= 0, find(mine, others) < 0)

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "positions": self.positions, "version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shape = state["shape"]
        require_distinct("positions", state["positions"], self.shape[0] * self.shape[1], "positions")
        self._set(state["positions"].sort().values)
        self.version = state["version"]

    def __repr__(self) -> str:
        return f"Topology({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, density={self.density:.4g})"


def carry(old: Topology, new: Topology, values: Tensor) -> Tensor:
    """Values of `old` for `new`: entries in both keep theirs, fresh ones are 0."""
    old._require("carry", values)
    return old.move_to(new).carry(values)
