"""Weights packed for one kernel, and the handles by which torch operations name them."""

import itertools
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError, unknown_name
from rarefy.ops import native, reference
from rarefy.ops.checks import require_floats

ACTIVATIONS = tuple(reference.ACTIVATIONS)
_REFERENCE = "reference"
_numbers = itertools.count(1)
_alive: "weakref.WeakValueDictionary[int, PackedWeight]" = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A sparse (out, in) float32 weight laid out for `kernel`; it lives while this object does.

    handle: what `rarefy::packed_linear` takes; nnz: stored weights (denormals are dropped); nbytes: of the layout.
    Copies and pickles are packed anew from the dense weight, and get handles of their own.
    """

    handle: int
    shape: tuple[int, int]
    nnz: int
    nbytes: int
    kernel: str
    _layout: Any = field(repr=False)  # the native object, or the dense weight where there is none

    def __post_init__(self) -> None:
        _alive[self.handle] = self

    def to_dense(self) -> Tensor:
        """The weight (out, in), exactly as it was packed (denormals as zero)."""
        if isinstance(self._layout, Tensor):
            return self._layout.clone()
        dense = torch.empty(self.shape)
        self._layout.unpack(dense.data_ptr())
        return dense

    def multiply(self, x: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        """act(x W^T + bias) for contiguous x (tokens, in), gives (tokens, out). Checked by the caller."""
        if isinstance(self._layout, Tensor):
            return reference.linear(x, self._layout, bias, activation)
        out = torch.empty(x.shape[0], self.shape[0])
        self._layout.multiply(
            x.data_ptr(),
            x.shape[0],
            0 if bias is None else bias.data_ptr(),
            ACTIVATIONS.index(activation),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.to_dense(), self.kernel)

    def __copy__(self) -> "PackedWeight":
        return pack(self.to_dense(), self.kernel)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedWeight":
        return self.__copy__()


def _unpickle(weight: Tensor, kernel: str) -> PackedWeight:
    """Packs for the same kernel where this CPU has it, else for the one chosen here."""
    names = {known.name for known in native.kernels()} | {_REFERENCE}
    return pack(weight, kernel if kernel in names else None)


def pack(weight: Tensor, kernel: str | None = None) -> PackedWeight:
    """Lays out a weight (out, in), float32 with exact zeros, for a kernel; without a name, for the likely best.

    Raises DTypeError or ShapeError for another type or rank, UnknownNameError for a kernel that is not there,
    ValueError for one that this CPU (or RAREFY_ISA) does not allow.

    >>> import torch
    >>> packed = pack(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    >>> packed.nnz, packed.to_dense().tolist()
    (2, [[0.0, 2.0], [3.0, 0.0]])
    """
    require_floats("pack", weight=weight)
    if weight.dim() != 2:
        raise ShapeError(f"pack: weight has shape {tuple(weight.shape)}, it must be (out, in)")
    weight = weight.detach().contiguous()
    shape = (weight.shape[0], weight.shape[1])
    module = native.module()
    if module is None or kernel == _REFERENCE:
        if kernel not in (None, _REFERENCE):
            raise EngineError(f"pack: kernel {kernel!r} is native, and {native.why_not()}")
        normal = torch.where(weight.abs() < torch.finfo(torch.float32).tiny, 0.0, weight)
        return PackedWeight(next(_numbers), shape, int(normal.count_nonzero()), normal.nbytes, _REFERENCE, normal)
    compiled = [name for name, *_ in module.kernels()]
    name = candidates(weight, tokens=128)[0] if kernel is None else kernel
    if name not in compiled:
        raise unknown_name("pack: kernel", name, compiled)
    layout = module.Packed(weight.data_ptr(), *shape, name)
    return PackedWeight(next(_numbers), shape, layout.nnz, layout.nbytes, name, layout)


def find(handle: int) -> PackedWeight:
    """The packed weight that a handle names. Raises EngineError when it does not live any more."""
    packed = _alive.get(handle)
    if packed is None:
        raise EngineError(
            f"packed weight {handle} does not exist (any more) in this process; keep the PackedWeight that pack() "
            "returned for as long as the model or graph that uses it"
        )
    return packed


def candidates(weight: Tensor, tokens: int) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in) and number of tokens, likely best first.

    Only kernels of the best instruction set in force; few tokens get the row kernels first. Never empty: without the
    native module it is ["reference"].
    """
    usable = native.kernels()
    if not usable:
        return [_REFERENCE]
    best = usable[0].isa
    tiled = [k for k in usable if k.isa == best and k.op == "spmm"]
    rows = [k for k in usable if k.isa == best and k.op == "spmv"]
    fitting = [k for k in tiled if k.tile[1] <= max(16, 2 * tokens)]
    if tokens <= 2:
        return [k.name for k in rows]
    if tokens <= 8:
        return [k.name for k in rows + fitting[:2]]
    return [k.name for k in fitting]
