"""Weights packed for one kernel, and the handles by which torch operations name them."""

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError, unknown_name
from rarefy.core.quantized import InputScale, QuantizedWeight
from rarefy.ops import native, reference
from rarefy.ops.checks import require_floats, require_input_scale, require_quantized, require_size
from rarefy.ops.families import FAMILIES, best_isa, columns, takes_scales

ACTIVATIONS = tuple(reference.ACTIVATIONS)
_REFERENCE = "reference"
_numbers = itertools.count()
_alive: "weakref.WeakValueDictionary[int, PackedWeight]" = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A sparse (out, in) weight laid out for `kernel`; it lives while this object does.

    handle: what `rarefy::packed_linear` takes; nnz: stored weights (denormals are dropped); nbytes: of the layout;
    quantized: what it was packed from, where the kernel stores integers; input_scale: of its 8-bit inputs, where it was
    known at packing; source: gives the weight again where it lies elsewhere (a mapped file).
    Copies share the layout, which nothing changes; pickles are packed anew. Both get handles of their own.
    """

    handle: int
    shape: tuple[int, int]
    nnz: int
    nbytes: int
    kernel: str
    _layout: Any = field(repr=False)  # the native object, or the dense weight where there is none
    quantized: QuantizedWeight | None = field(default=None, repr=False)
    input_scale: InputScale | None = None
    source: Callable[[], Tensor | QuantizedWeight] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _alive[self.handle] = self

    def to_dense(self) -> Tensor:
        """The weight (out, in) that inputs are multiplied with, as it is stored (denormals as zero, rounded where the
        stored type is narrower)."""
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

    @property
    def layout(self) -> Any:
        """The native object, for the operations that take it; None without the native module."""
        return None if isinstance(self._layout, Tensor) else self._layout

    def _source(self) -> Tensor | QuantizedWeight:
        if self.source is not None:
            return self.source()
        return self.to_dense() if self.quantized is None else self.quantized

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._source(), self.kernel, self.input_scale)

    def __copy__(self) -> "PackedWeight":
        return replace(self, handle=next(_numbers))

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedWeight":
        return self.__copy__()


def _unpickle(weight: Tensor | QuantizedWeight, kernel: str, input_scale: InputScale | None) -> PackedWeight:
    """Packs for the same kernel where this CPU has it, else for the one chosen here."""
    names = {known.name for known in native.kernels()} | {_REFERENCE}
    return pack(weight, kernel if kernel in names else None, input_scale=input_scale)


def pack(
    weight: Tensor | QuantizedWeight,
    kernel: str | None = None,
    *,
    input_scale: InputScale | tuple[float, int] | None = None,
) -> PackedWeight:
    """Lays out a weight (out, in), float32 with exact zeros or quantized, for a kernel; without a name, the likely one.

    input_scale: of the inputs, for kernels that compute on 8-bit inputs; without it each token's own is found at every
    call. Where it has factors, the weight is one that was multiplied by them (`InputScale.folded`). Raises DTypeError
    or ShapeError for another type or rank, UnknownNameError for a kernel that is not there, ValueError for one that
    this CPU (or RAREFY_ISA) does not allow or that stores another type.

    >>> import torch
    >>> packed = pack(torch.tensor([[0.0, 2.0], [3.0, 0.0]]))
    >>> packed.nnz, packed.to_dense().tolist()
    (2, [[0.0, 2.0], [3.0, 0.0]])
    """
    quantized = weight if isinstance(weight, QuantizedWeight) else None
    floats = weight if isinstance(weight, Tensor) else None
    if floats is not None:
        require_floats("pack", weight=floats)
        if floats.dim() != 2:
            raise ShapeError(f"pack: weight has shape {tuple(floats.shape)}, it must be (out, in)")
        floats = floats.detach().contiguous()
    if quantized is not None:
        require_quantized("pack", quantized)
    rows, width = weight.shape
    require_size("pack", "the weight's out", rows)
    require_size("pack", "the weight's in", width)
    require_input_scale("pack", input_scale)
    scale = None if input_scale is None else _checked(InputScale(*input_scale), weight)
    module = native.module()
    if module is None or kernel == _REFERENCE:
        if kernel not in (None, _REFERENCE):
            raise EngineError(f"pack: kernel {kernel!r} is native, and {native.why_not()}")
        return _pack_reference(floats, quantized, scale)
    compiled = [name for name, *_ in module.kernels()]
    name = kernel or _likely(weight, *_likely_types(quantized, scale))
    if name not in compiled:
        raise unknown_name("pack: kernel", name, compiled)
    layout = _lay_out(module, floats, quantized, name, scale)
    return adopt(layout, (rows, width), name, quantized=quantized, input_scale=scale)


def adopt(layout: Any, shape: tuple[int, int], kernel: str, **known: Any) -> PackedWeight:
    """A native layout of a weight (out, in) with a handle; known: the optional fields of `PackedWeight`."""
    return PackedWeight(next(_numbers), shape, layout.nnz, layout.nbytes, kernel, layout, **known)


def _checked(scale: InputScale, weight: Tensor | QuantizedWeight) -> InputScale:
    """The scale, whose factors fit the weight."""
    if scale.factors and len(scale.factors) != weight.shape[1]:
        raise ShapeError(
            f"pack: input_scale has {len(scale.factors)} factors for the {weight.shape[1]} inputs of a weight of shape "
            f"{tuple(weight.shape)}; give one an input, or none"
        )
    return scale


def _likely(weight: Tensor | QuantizedWeight, weights: str, activations: str) -> str:
    """The kernel for many tokens, or where none is worth it for few."""
    names = candidates(weight, 128, weights, activations) or candidates(weight, 1, weights, activations)
    if not names:
        raise EngineError(
            f"pack: no kernel is worth it for this {weights} weight of shape {tuple(weight.shape)} with {activations} "
            "inputs; name one (rarefy.ops.kernels() lists them), or quantize_weight() with other groups"
        )
    return names[0]


def _likely_types(quantized: QuantizedWeight | None, scale: InputScale | None) -> tuple[str, str]:
    """(of weights, of activations) where no kernel was named; factors can only divide 8-bit inputs."""
    if quantized is None:
        return "fp32", "fp32"
    return f"int{quantized.bits}", "int8" if scale is not None and scale.factors else "fp32"


def _lay_out(
    module: Any, floats: Tensor | None, quantized: QuantizedWeight | None, name: str, input_scale: InputScale | None
) -> Any:
    """The native object."""
    scale, zero, factors = input_scale or InputScale(0.0, 0)
    divided = torch.tensor(factors)
    inputs = scale, zero, divided.data_ptr() if factors else 0
    if quantized is None:
        assert floats is not None
        return module.Packed(floats.data_ptr(), 0, 0, 0, 0, *inputs, *floats.shape, name)
    codes, scales = quantized.values.contiguous(), quantized.scale.contiguous()
    return module.Packed(
        0, codes.data_ptr(), scales.data_ptr(), quantized.groups, quantized.bits, *inputs, *quantized.shape, name
    )


def _pack_reference(
    floats: Tensor | None, quantized: QuantizedWeight | None, input_scale: InputScale | None
) -> PackedWeight:
    """Without a native layout: the dense weight, computed with in float32."""
    weight = quantized.dequantize() if quantized is not None else floats
    assert weight is not None
    if input_scale is not None and input_scale.factors:
        weight = weight / torch.tensor(input_scale.factors)
    normal = torch.where(weight.abs() < torch.finfo(torch.float32).tiny, 0.0, weight)
    nnz, shape = int(normal.count_nonzero()), (normal.shape[0], normal.shape[1])
    return PackedWeight(next(_numbers), shape, nnz, normal.nbytes, _REFERENCE, normal, quantized, input_scale)


def find(handle: int) -> PackedWeight:
    """The packed weight that a handle names. Raises EngineError when it does not live any more."""
    packed = _alive.get(handle)
    if packed is None:
        raise EngineError(
            f"packed weight {handle} does not exist (any more) in this process; keep the PackedWeight that pack() "
            "returned for as long as the model or graph that uses it"
        )
    return packed


def candidates(
    weight: Tensor | QuantizedWeight, tokens: int, weights: str = "fp32", activations: str = "fp32"
) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in) and number of tokens, likely best first.

    weights, activations: the types to store and to compute with. Of each family only kernels of the best instruction
    set in force. Empty where no kernel has these types; without the native module it is ["reference"].
    """
    usable = native.kernels()
    if not usable:
        return [_REFERENCE]
    values = weight.values if isinstance(weight, QuantizedWeight) else weight
    names = []
    for op, worth in FAMILIES.items():
        if isinstance(weight, QuantizedWeight) and not takes_scales(op, weight.shape[1], weight.groups):
            continue
        stored = [k for k in usable if k.op == op and k.weights == weights]
        typed = [k for k in stored if k.activations == activations]
        if activations == "bf16" and not typed:  # float32 inputs are more exact than what was asked for
            typed = [k for k in stored if k.activations == "fp32"]
        names += worth(best_isa(typed), values, tokens) if typed else []
    return names


def selecting(
    weight: Tensor | QuantizedWeight, weights: str = "fp32", activations: str = "fp32", *, rows: bool = False
) -> list[str]:
    """Names of the kernels that skip the columns of a weight (out, in) whose input is 0; or, `rows`, that compute only
    the rows that are asked for. Those that round their inputs only where `activations` allow it. The likely best last;
    empty where none fits."""
    op, types = "neurons" if rows else "columns", ("fp32", activations)
    usable = [k for k in native.kernels() if k.op == op and k.weights == weights and k.activations in types]
    if isinstance(weight, QuantizedWeight):
        if not takes_scales(op, weight.shape[1], weight.groups) or (weights == "int8" and weight.groups != 1):
            return []
        weight = weight.values
    return columns.selective(usable, weight)


def pick_rows(packed: PackedWeight, x: Tensor, rows: Tensor) -> Tensor:
    """y (tokens, out) = x W^T for the rows that are listed (int32), 0 elsewhere; `packed` is of a kernel for rows."""
    require_floats("pick_rows", x=x)
    if rows.dtype != torch.int32 or rows.dim() != 1:
        raise ShapeError(f"pick_rows: rows is {rows.dtype} of shape {tuple(rows.shape)}; give int32 numbers of rows")
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < packed.shape[0]:
        raise ShapeError(f"pick_rows: rows span [{int(rows.min())}, {int(rows.max())}], outside [0, {packed.shape[0]})")
    if x.dim() != 2 or x.shape[1] != packed.shape[1]:
        raise ShapeError(f"pick_rows: x has shape {tuple(x.shape)}, it must be (tokens, {packed.shape[1]})")
    x, rows, out = x.contiguous(), rows.contiguous(), torch.zeros(x.shape[0], packed.shape[0])
    threads = torch.get_num_threads()
    packed.layout.multiply_rows(x.data_ptr(), x.shape[0], rows.data_ptr(), rows.numel(), out.data_ptr(), threads)
    return out
