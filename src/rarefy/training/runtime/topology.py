"""Which entries of a weight exist while it is trained, as a handle that is checked once and edited in place."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.core.bits import padding_is_clear, unpack_bits
from rarefy.core.errors import ShapeError
from rarefy.core.shapes import Bits, Bool, Float, Int
from rarefy.ops import Layer, TrainIndex

_MOST_INDEXES = 2  # prepared forms kept at a time: one a size of image


@dataclass(frozen=True)
class Move:
    """Where the entries of an edited topology come from.

    source: `(nnz,)` the old entry of each new one, -1 for a fresh one.
    """

    source: Int[Tensor, " nnz"]

    def carry(self, values: Tensor, fresh: float | Tensor = 0.0) -> Tensor:
        """What belongs to the entries (weights, momentum) for the new topology; fresh entries get `fresh`.

        fresh: a number, or `(nnz,)` of which the fresh places are read.
        """
        kept = self.source >= 0
        moved = values[self.source.clamp(min=0)] if values.numel() else values.new_zeros(self.source.numel())
        return torch.where(kept, moved, torch.as_tensor(fresh, dtype=values.dtype))


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
        edges = torch.arange(rows + 1) * n
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
        return torch.repeat_interleave(torch.arange(self.shape[0]) * self.shape[1], self.row_counts).add_(self._columns)

    @property
    def mask(self) -> Bool[Tensor, "rows n"]:
        """The dense mask, True = kept."""
        out = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool)
        out[self.positions] = True
        return out.view(self.shape)

    @property
    def bits(self) -> Bits:
        """The mask at eight entries a byte, without making it whole."""
        rows, n = self.shape
        width = (n + 7) // 8
        places = torch.repeat_interleave(torch.arange(rows) * width, self.row_counts).add_(self._columns >> 3)
        out = torch.zeros(rows * width, dtype=torch.uint8)
        ones = torch.ones((), dtype=torch.uint8) << (self._columns & 7).to(torch.uint8)
        return out.index_add_(0, places, ones).view(rows, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the topology and of what is prepared for the kernels."""
        return self._offsets.nbytes + self._columns.nbytes + sum(index.nbytes for index in self._indexes.values())

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
        return dense.reshape(-1)[self.positions]

    def scatter(self, values: Tensor) -> Float[Tensor, "rows n"]:
        """The dense `(rows, n)` with exact zeros where nothing is kept."""
        self._require("scatter", values)
        dense = values.new_zeros(self.shape[0] * self.shape[1])
        return dense.scatter(0, self.positions, values).view(self.shape)

    def entries(self, positions: Tensor) -> Tensor:
        """The entry numbers of positions `row * n + column`, -1 where nothing is kept."""
        return _find(self.positions, positions)

    def _require(self, what: str, values: Tensor) -> None:
        if tuple(values.shape) != (self.nnz,):
            raise ShapeError(f"Topology.{what}: values have shape {tuple(values.shape)}, {self.nnz} entries are kept")

    def edit(self, dropped: Tensor, grown: Tensor) -> Move:
        """Takes entries away and adds new ones, in place.

        dropped: entry numbers in [0, nnz); grown: positions `row * n + column` that are not kept (or are just dropped:
        then they come back as fresh ones). Raises `ShapeError` for anything out of range, repeated or already kept,
        and then nothing has changed.
        """
        old = self.positions
        keep = torch.ones(self.nnz, dtype=torch.bool)
        _require_distinct("dropped", dropped, self.nnz, "entries")
        _require_distinct("grown", grown, self.shape[0] * self.shape[1], "positions")
        keep[dropped.long()] = False
        kept = keep.nonzero().squeeze(1)
        taken = _find(old[kept], grown.long()) >= 0
        if bool(taken.any()):
            where = int(grown[taken][0])
            raise ShapeError(
                f"Topology.edit: position {where} (row {where // self.shape[1]}, column {where % self.shape[1]}) is "
                "kept already; grow where nothing is"
            )
        positions, order = torch.cat([old[kept], grown.long()]).sort()
        source = torch.cat([kept, torch.full((grown.numel(),), -1)])[order]
        self._set(positions)
        return Move(source)

    def become(self, other: "Topology") -> None:
        """Takes over another's support, in place."""
        self.move_to(other)  # refuses another shape
        self._set(other.positions)

    def move_to(self, other: "Topology") -> Move:
        """How values of this topology become values of another of the same shape."""
        if self.shape != other.shape:
            raise ShapeError(f"Topology.move_to: shapes {self.shape} and {other.shape} differ")
        return Move(_find(self.positions, other.positions))

    def __getstate__(self) -> dict[str, Any]:
        return {"shape": self.shape, "positions": self.positions, "version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.shape = state["shape"]
        _require_distinct("positions", state["positions"], self.shape[0] * self.shape[1], "positions")
        self._set(state["positions"].sort().values)
        self.version = state["version"]

    def __repr__(self) -> str:
        return f"Topology({self.shape[0]} x {self.shape[1]}, nnz={self.nnz}, density={self.density:.4g})"


def carry(old: Topology, new: Topology, values: Tensor) -> Tensor:
    """Values of `old` for `new`: entries in both keep theirs, fresh ones are 0."""
    old._require("carry", values)
    return old.move_to(new).carry(values)


def _find(among: Tensor, wanted: Tensor) -> Tensor:
    """The place of each wanted number in an ascending list, -1 where it is not there."""
    if not among.numel():
        return torch.full_like(wanted, -1)
    at = torch.searchsorted(among, wanted).clamp(max=among.numel() - 1)
    return torch.where(among[at] == wanted, at, -1)


def _require_distinct(name: str, numbers: Tensor, below: int, what: str) -> None:
    if numbers.dim() != 1 or numbers.dtype not in (torch.int32, torch.int64):
        raise ShapeError(f"Topology.edit: {name} is {numbers.dtype} of shape {tuple(numbers.shape)}; give 1-d integers")
    if not numbers.numel():
        return
    low, high = (int(end) for end in numbers.aminmax())
    if low < 0 or high >= below:
        raise ShapeError(f"Topology.edit: {name} span [{low}, {high}], there are {below} {what}")
    if numbers.unique().numel() != numbers.numel():
        raise ShapeError(f"Topology.edit: {name} has one of the {what} twice; give each once")
