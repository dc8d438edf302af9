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
from rarefy.ops.conv_kernels import (
    REFERENCE,
    conv_candidates,
    direct_kernels,
    is_direct_kernel,
    is_turned,
    is_winograd_kernel,
    kernels,
    winograd_kernels,
)
from rarefy.ops.conv_pool import Pool
from rarefy.ops.conv_reference import ACTIVATIONS, Window, conv2d
from rarefy.ops.depthwise import depthwise_candidates, is_depthwise_kernel

_PLAIN = Window()
_numbers = itertools.count(1)
_alive: "weakref.WeakValueDictionary[int, PackedConv]" = weakref.WeakValueDictionary()


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
        turned = self.across and is_turned(self.kernel)
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

    @property
    def products(self) -> float:
        """Multiplications that an output pixel takes, of all channels."""
        if not is_winograd_kernel(self.kernel):
            return float(self.nnz)
        kernel = next(k for k in winograd_kernels() if k.name == self.kernel)
        down, along = self.window.stride
        return (1.0 + (kernel.taps - 1) / kernel.outputs) ** 2 * self.shape[0] * self.shape[1] * down * along

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
    names = {known.name for known in [*kernels(), *direct_kernels()]} | {known.name for known in winograd_kernels()}
    names |= {REFERENCE, *depthwise_candidates(weight, window, eight=False)}
    return pack_conv(weight, window, kernel if kernel in names else None, across=across)


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
    if module is None or kernel == REFERENCE:
        if kernel not in (None, REFERENCE):
            raise EngineError(f"pack_conv: kernel {kernel!r} is native, and {native.why_not()}")
        normal = torch.where(weight.abs() < torch.finfo(torch.float32).tiny, 0.0, weight)
        nnz, size = int(normal.count_nonzero()), normal.nbytes
        return PackedConv(next(_numbers), (out, in_, high, wide), window, nnz, size, REFERENCE, normal)
    fitting = [] if across else depthwise_candidates(weight, window, eight=False)
    name = kernel or [*fitting, *conv_candidates(weight, window.groups)][0]
    lists = module.conv_kernels(), module.direct_kernels(), module.winograd_kernels()
    compiled = [listed[0] for one in lists for listed in one]
    if not is_turned(name) and not across:
        raise EngineError(f"pack_conv: kernel {name!r} takes images across the lanes of vectors only; say across=True")
    if name not in compiled and (across or not is_depthwise_kernel(name)):
        raise unknown_name("pack_conv: kernel", name, [*compiled, *fitting])
    turned = across and is_turned(name)
    if turned:
        weight = weight.transpose(2, 3).contiguous()
    shape = (out, in_, high, wide)
    layout = _held_by(module, name)(weight.data_ptr(), *_sizes(shape, window, turned), name)
    return PackedConv(next(_numbers), shape, window, layout.nnz, layout.nbytes, name, layout, across)


def _held_by(module: Any, kernel: str) -> Any:
    """The native class of weights for this kernel."""
    if is_direct_kernel(kernel):
        return module.PackedDirect
    if is_winograd_kernel(kernel):
        return module.PackedWinograd
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
    turned = across and is_turned(kernel)
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
