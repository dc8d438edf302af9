"""What the trainer knows of one weight."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.bits import pack_bits, unpack_bits
from rarefy.core.protocols import Pattern
from rarefy.core.shapes import Mask, Weight
from rarefy.core.site import Site
from rarefy.training.runtime.topology import Topology


@dataclass
class WeightState:
    """The state of one weight; all tensors have its shape `(out, in)`.

    Where the layer trains on its kept values only (`packed`, see `Switching`), masks are held as bits and made when
    they are asked for, and `value`, `grad` and `put` are for `Run.opened` to allow.

    density: the share it has to keep, `asked` at first by the allocation, later what the method makes of it; mask: what
    it keeps now (held by `support`); master: the dense weight that the optimizer trains where the forward pass sees
    only a view of it, else None (the parameter is the weight); extra: what the method's parts remember (counts,
    averages), saved with the checkpoint; explored: whether an entry was ever kept (in-time over-parameterisation; held
    by `tried`); step, total_steps: of the run; known: the parameter's version and sums as the trainer wrote its view
    (torch counts no writes through `parameter.data`); shape: `(out, in)`; first_sd: standard deviation of the weight
    before training.
    """

    weight: Site
    pattern: Pattern
    density: float
    support: Mask | Topology
    master: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    tried: Tensor | None = None
    step: int = 0
    total_steps: int | None = None
    known: tuple[int, Tensor] | None = None
    asked: float = field(init=False)
    shape: tuple[int, int] = field(init=False)
    first_sd: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked, self.shape = self.density, self.weight.shape
        self.first_sd = float(self.value().float().std(correction=0))

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def size(self) -> int:
        """Entries of the dense weight."""
        return self.shape[0] * self.shape[1]

    @property
    def packed(self) -> Topology | None:
        """Where the kept values belong, while only they exist; None for a dense parameter."""
        return self.support if isinstance(self.support, Topology) else None

    @property
    def mask(self) -> Mask:
        return self.support.mask if isinstance(self.support, Topology) else self.support

    @mask.setter
    def mask(self, mask: Mask) -> None:
        assert self.packed is None, f"{self.name}: open the packed weight before its mask changes"
        self.support = mask

    @property
    def explored(self) -> Mask | None:
        if self.tried is None or self.packed is None:
            return self.tried
        return unpack_bits(self.tried, self.shape[1])

    @explored.setter
    def explored(self, explored: Mask | None) -> None:
        assert self.packed is None, f"{self.name}: open the packed weight before it is explored"
        self.tried = explored

    def close(self, topology: Topology) -> None:
        """From now on only the kept values exist: masks become bits."""
        self.tried = None if self.tried is None else pack_bits(self.tried)
        self.support = topology

    def open(self) -> None:
        """The way back from `close`."""
        mask, explored = self.mask, self.explored
        self.support, self.tried = mask, explored

    @property
    def count(self) -> int:
        """How many entries the asked density keeps."""
        rows, n = self.shape
        return self.pattern.count(rows, n, self.density)

    @property
    def kept(self) -> int:
        return self.support.nnz if isinstance(self.support, Topology) else int(self.support.count_nonzero())

    def value(self) -> Weight:
        """The weight that is trained, `(out, in)`: the dense master where there is one.

        A view of it, but in other memory formats than the contiguous one a copy: `put` writes.
        """
        if self.master is not None:
            return self.master
        self._require_open()
        return self.weight.as_matrix(self.weight.parameter.detach())

    def grad(self) -> Weight | None:
        """The gradient of the loss with respect to what the forward pass saw, `(out, in)`, dropped entries too.

        A view, or a copy as `value`: `put_grad` writes.
        """
        self._require_open()
        found = self.weight.parameter.grad
        return None if found is None else self.weight.as_matrix(found)

    def put(self, matrix: Tensor) -> None:
        """Writes `(out, in)` into the parameter, in place."""
        self._require_open()
        _write(self.weight.parameter, self.weight.as_parameter(matrix))

    def show(self, view: Tensor) -> None:
        """`put` of what the forward pass sees of the master."""
        self.put(view)
        self.know()

    def know(self) -> None:
        """The parameter holds what the master says."""
        self.known = self.weight.parameter._version, self._sums()

    @property
    def written(self) -> bool:
        """Whether somebody else has written into a parameter that shows a master, be it through its `data`."""
        if self.master is None or self.known is None:
            return False
        version, sums = self.known
        if version != self.weight.parameter._version:
            return True
        now = self._sums()
        return not bool(((now == sums) | now.isnan()).all())

    def _sums(self) -> Tensor:
        """Over all axes but the first, in float32 or better: one pass over the weight."""
        weight = self.weight.parameter.detach()
        return weight.sum(tuple(range(1, weight.dim())), dtype=torch.promote_types(weight.dtype, torch.float32))

    def put_grad(self, matrix: Tensor) -> None:
        """Writes `(out, in)` into the parameter's gradient, in place."""
        self._require_open()
        assert self.weight.parameter.grad is not None
        _write(self.weight.parameter.grad, self.weight.as_parameter(matrix))

    def _require_open(self) -> None:
        assert self.packed is None, f"{self.name}: only the kept values exist; use `with run.opened(state)`"


@torch.no_grad()
def _write(to: Tensor, value: Tensor) -> None:
    """Copies into `to`, of which `value` may be a view with other strides (channels last, axes of one entry)."""
    to.copy_(value.clone() if value.data_ptr() == to.data_ptr() and value.stride() != to.stride() else value)
