"""Convolution weights packed for one kernel, and the handles by which torch operations name them."""

import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError, unknown_name
from rarefy.ops import native
from rarefy.ops.checks import require_floats
from rarefy.ops.conv_pool import Pool
from rarefy.ops.conv_reference import ACTIVATIONS, Window, conv2d
from rarefy.ops.depthwise import depthwise_candidates, is_depthwise_kernel

_REFERENCE = "reference"
_PLAIN = Window()
_numbers = itertools.count(1)
_alive: "weakref.WeakValueDictionary[int, PackedConv]" = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class ConvKernel:
    """One compiled convolution kernel.

    rows: output channels in a group; pixels: vectors of output pixels in a tile; together: the channels of a group
    share their inputs (blocks of 1 x `rows` weights, or a dense weight).
    """

    name: str
    isa: str
    rows: int
    pixels: int
    together: bool


@dataclass(frozen=True, eq=False)
class PackedConv:
    """A sparse (out, in / groups, kh, kw) float32 weight laid out for `kernel`; it lives while this object does.

    handle: what `rarefy::packed_conv2d` takes; nnz: stored weights (denormals are dropped); nbytes: of the layout;
    across: laid out for images across the lanes of vectors (`rarefy.ops.conv_across`), which that one does not take.
    Copies share the layout, which nothing changes; pickles are packed anew. Both get handles of their own.
    """

    handle: int
    shape: tuple[int, int, int, int]
    window: Window
    nnz: int
    nbytes: int
    kernel: str
    _layout: Any = field(repr=False)  # the native object, or the dense weight where there is none
    across: bool = False

    def __post_init__(self) -> None:
        _alive[self.handle] = self

    def to_dense(self) -> Tensor:
        """The weight (out, in / groups, kh, kw), as it is stored (denormals as zero)."""
        if isinstance(self._layout, Tensor):
            return self._layout.clone()
        out, in_, high, wide = self.shape
        turned = self.across and not is_direct_kernel(self.kernel)
        dense = torch.empty((out, in_, wide, high) if turned else self.shape)
        self._layout.unpack(dense.data_ptr())
        return dense.transpose(2, 3).contiguous() if turned else dense

    def convolve(
        self, x: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str, out: Tensor | None = None
    ) -> Tensor:
        """act(conv(x) + bias + residual) for contiguous x (batch, in, height, width). Checked by the caller.

        out: where the result is written, contiguous; new memory where it is None.
        """
        if isinstance(self._layout, Tensor):
            result = conv2d(x, self._layout, bias, residual, activation, self.window)
            return result if out is None else out.copy_(result)
        batch, _, height, width = x.shape
        top, left = self.window.padding
        out = torch.empty(self.out_shape(x.shape)) if out is None else out
        self._layout.convolve(
            x.data_ptr(),
            (batch, height, width),
            (top, left, out.shape[2], out.shape[3]),
            0 if bias is None else bias.data_ptr(),
            0 if residual is None else residual.data_ptr(),
            ACTIVATIONS.index(activation),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def convolve_pooled(self, x: Tensor, bias: Tensor | None, activation: str, pool: Pool) -> Tensor:
        """pool(act(conv(x) + bias)) for contiguous x (batch, in, height, width). Checked by the caller."""
        if isinstance(self._layout, Tensor) or is_depthwise_kernel(self.kernel):
            return pool.largest(self.convolve(x, bias, None, activation))
        batch, _, height, width = x.shape
        between = self.out_shape(x.shape)
        out = torch.empty(pool.out_shape(between))
        self._layout.convolve_pooled(
            x.data_ptr(),
            (batch, height, width),
            (*self.window.padding, *between[2:]),
            0 if bias is None else bias.data_ptr(),
            ACTIVATIONS.index(activation),
            (*pool.kernel, *pool.stride, *pool.padding, *pool.dilation),
            (out.shape[2], out.shape[3]),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    @property
    def layout(self) -> Any:
        """The native object, for whoever calls it many times; None without the native module."""
        return None if isinstance(self._layout, Tensor) else self._layout

    def out_shape(self, x: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        """(batch, out, height, width) of the result for an input of shape x."""
        return (x[0], self.shape[0], *self.window.out_size(x[2:], self.shape[2:]))

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.to_dense(), self.window, self.kernel, self.across)

    def __copy__(self) -> "PackedConv":
        return replace(self, handle=next(_numbers))

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedConv":
        return self.__copy__()


def _unpickle(weight: Tensor, window: Window, kernel: str, across: bool) -> PackedConv:
    """Packs for the same kernel where this CPU has it, else for the one chosen here."""
    names = {known.name for known in [*kernels(), *direct_kernels()]}
    names |= {_REFERENCE, *depthwise_candidates(weight, window, eight=False)}
    return pack_conv(weight, window, kernel if kernel in names else None, across=across)


def kernels() -> list[ConvKernel]:
    """Every compiled convolution kernel that this process may use."""
    module = native.module()
    return [] if module is None else _allowed(module.conv_kernels())


def direct_kernels() -> list[ConvKernel]:
    """Those that this process may use for images across the lanes and that read their inputs where they lie."""
    module = native.module()
    return [] if module is None else _allowed(module.direct_kernels())


def _allowed(listed: Sequence[tuple[str, str, int, int, bool]]) -> list[ConvKernel]:
    module, levels = native.module(), native.LEVELS
    assert module is not None  # it listed them
    allowed = levels.index(module.isa())
    return [ConvKernel(*kernel) for kernel in listed if levels.index(kernel[1]) <= allowed]


def is_direct_kernel(kernel: str) -> bool:
    """Whether a kernel of this name reads its inputs in place (and its weight is not turned)."""
    return kernel.startswith("direct-")


def _best(usable: Sequence[ConvKernel]) -> str:
    """The widest instruction set of the compiled kernels that this process may use."""
    return max((kernel.isa for kernel in usable), key=native.LEVELS.index, default=native.LEVELS[0])


def kernels_across() -> list[str]:
    """Names of the kernels whose vectors have as many lanes as `conv_across` puts images across."""
    best = _best(kernels())
    return [kernel.name for kernel in [*kernels(), *direct_kernels()] if kernel.isa == best]


def candidates_across(weight: Tensor, groups: int = 1) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in / groups, kh, kw) and images across the lanes.

    What `conv_candidates` says, and for a sparse weight the kernels that read their inputs in place.
    """
    best, sparse = _best(kernels()), float(weight.count_nonzero()) <= 0.6 * weight.numel()
    direct = [kernel.name for kernel in direct_kernels() if kernel.isa == best and (sparse or groups > 1)]
    return conv_candidates(weight, groups) + direct


def conv_candidates(weight: Tensor, groups: int = 1) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in / groups, kh, kw), likely best first.

    A kernel that works on more output channels at a time than a group has would compute nothing in some. Blocks of
    output channels are worth it where filling the blocks up costs little: for a weight pruned in such blocks, and for
    a dense one. Never empty: without the native module it is ["reference"].
    """
    usable = kernels()
    if not usable:
        return [_REFERENCE]
    best = _best(usable)
    most = max(1, weight.shape[0] // groups)
    usable = [kernel for kernel in usable if kernel.isa == best and kernel.rows <= most]
    apart = [k.name for k in usable if not k.together]
    together = [k.name for k in usable if k.together and fill(weight, k.rows) > 0.6]
    dense = float(weight.count_nonzero()) > 0.6 * weight.numel()
    return together if dense and together else apart + together


def fill(weight: Tensor, rows: int) -> float:
    """The share of non-zeros among what blocks of 1 x `rows` output channels of a weight (out, ...) would store."""
    if weight.numel() == 0:
        return 1.0
    blocks = torch.zeros(-(-weight.shape[0] // rows) * rows, weight[0].numel())
    blocks[: weight.shape[0]] = weight.reshape(weight.shape[0], -1) != 0
    kept = blocks.view(-1, rows, blocks.shape[1]).amax(1).sum() * rows
    return float(blocks.sum() / kept.clamp_min(1))


def pack_conv(
    weight: Tensor, window: Window = _PLAIN, kernel: str | None = None, *, across: bool = False
) -> PackedConv:
    """Lays out a convolution weight (out, in / groups, kh, kw), float32 with exact zeros, for a kernel.

    Without a kernel's name the likely best is taken. across: for images across the lanes of vectors. Raises DTypeError
    or ShapeError for another type or rank, UnknownNameError for a kernel that is not there, EngineError for one that
    takes images across only, ValueError for one that this CPU (or RAREFY_ISA) does not allow.

    >>> import torch
    >>> packed = pack_conv(torch.tensor([[[[0.0, 2.0]]]]))
    >>> packed.nnz, packed.to_dense().tolist()
    (1, [[[[0.0, 2.0]]]])
    """
    require_floats("pack_conv", weight=weight)
    if weight.dim() != 4 or 0 in weight.shape[2:]:
        raise ShapeError(f"pack_conv: weight has shape {tuple(weight.shape)}, it must be (out, in / groups, kh, kw)")
    if why := window.why_not():
        raise ShapeError(f"pack_conv: {window} makes no sense: {why}")
    if weight.shape[0] % window.groups:
        raise ShapeError(f"pack_conv: {weight.shape[0]} output channels cannot be cut into groups={window.groups}")
    weight = weight.detach().contiguous()
    out, in_, high, wide = weight.shape
    module = native.module()
    if module is None or kernel == _REFERENCE:
        if kernel not in (None, _REFERENCE):
            raise EngineError(f"pack_conv: kernel {kernel!r} is native, and {native.why_not()}")
        normal = torch.where(weight.abs() < torch.finfo(torch.float32).tiny, 0.0, weight)
        nnz, size = int(normal.count_nonzero()), normal.nbytes
        return PackedConv(next(_numbers), (out, in_, high, wide), window, nnz, size, _REFERENCE, normal)
    fitting = [] if across else depthwise_candidates(weight, window, eight=False)
    name = kernel or [*fitting, *conv_candidates(weight, window.groups)][0]
    compiled = [listed[0] for listed in [*module.conv_kernels(), *module.direct_kernels()]]
    if is_direct_kernel(name) and not across:
        raise EngineError(f"pack_conv: kernel {name!r} takes images across the lanes of vectors only; say across=True")
    if name not in compiled and (across or not is_depthwise_kernel(name)):
        raise unknown_name("pack_conv: kernel", name, [*compiled, *fitting])
    turned = across and not is_direct_kernel(name)
    if turned:
        weight = weight.transpose(2, 3).contiguous()
    shape = (out, in_, high, wide)
    layout = _held_by(module, name)(weight.data_ptr(), *_sizes(shape, window, turned), name)
    return PackedConv(next(_numbers), shape, window, layout.nnz, layout.nbytes, name, layout, across)


def _held_by(module: Any, kernel: str) -> Any:
    """The native class of weights for this kernel."""
    if is_direct_kernel(kernel):
        return module.PackedDirect
    return module.PackedDepthwise if is_depthwise_kernel(kernel) else module.PackedConv


def _sizes(shape: tuple[int, int, int, int], window: Window, turned: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes and steps as the native module takes them; tiles of images across the lanes want rows for columns."""
    turn = -1 if turned else 1
    out, in_, *kernel = shape
    return (out, in_, window.groups, *kernel[::turn]), (*window.stride[::turn], *window.dilation[::turn])


def see_conv(
    file: Any, at: int, nbytes: int, shape: tuple[int, int, int, int], window: Window, kernel: str, across: bool = False
) -> PackedConv:
    """A packed weight (out, in / groups, kh, kw) in bytes [at, at + nbytes) of a mapped file, as `packed_bytes` gave
    them. Raises ValueError as `see`."""
    module = native.module()
    assert module is not None  # the file is mapped by it
    turned = across and not is_direct_kernel(kernel)
    layout = _held_by(module, kernel)(file, at, nbytes, *_sizes(shape, window, turned), kernel)
    return PackedConv(next(_numbers), shape, window, layout.nnz, layout.nbytes, kernel, layout, across)


def find(handle: int) -> PackedConv:
    """The packed convolution that a handle names. Raises EngineError when it does not live any more."""
    packed = _alive.get(handle)
    if packed is None:
        raise EngineError(
            f"packed convolution {handle} does not exist (any more) in this process; keep the PackedConv that "
            "pack_conv() returned for as long as the model or graph that uses it"
        )
    return packed
