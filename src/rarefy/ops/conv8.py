"""8-bit convolution weights packed for one kernel: int8 weights with a scale a channel, images of words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError, unknown_name
from rarefy.core.quantized import quantize_weight
from rarefy.ops import native
from rarefy.ops.checks import require_bias, require_floats
from rarefy.ops.conv_kernels import ConvKernel, fill
from rarefy.ops.conv_reference import ACTIVATIONS, Window
from rarefy.ops.depthwise import depthwise_candidates, is_depthwise_kernel
from rarefy.ops.words import TOGETHER, Words, fours, words_shape

_WHERE = "convolve"
_PLAIN = Window()
Scale = tuple[float, int]  # of bytes: (scale, zero)


@dataclass(frozen=True, eq=False)
class PackedConv8:
    """A sparse (out, in / groups, kh, kw) weight as int8 with a scale an output channel, laid out for `kernel`.

    nnz: weights that are not 0; nbytes: of the layout. Copies share the layout, pickles are packed anew.
    """

    shape: tuple[int, int, int, int]
    window: Window
    nnz: int
    nbytes: int
    kernel: str
    layout: Any = field(repr=False)  # the native object

    def to_dense(self) -> Tensor:
        """The float32 weight (out, in / groups, kh, kw) that is stored."""
        dense = torch.empty(self.shape)
        self.layout.unpack(dense.data_ptr())
        return dense

    def out_shape(self, x: Sequence[Any]) -> tuple[Any, Any, Any, Any]:
        """(batch, out, height, width) of the result for images of shape x."""
        return (x[0], self.shape[0], *self.window.out_size(x[2:], self.shape[2:]))

    def convolve(
        self,
        x: Words,
        bias: Tensor | None = None,
        residual: Tensor | Words | None = None,
        activation: str = "none",
        to: Scale | None = None,
    ) -> Tensor | Words:
        """act(conv(x) + bias + residual): float32, or words of the scale `to`; a residual has the form of the result.

        Sums are exact. Raises ShapeError for shapes that do not fit, DTypeError for other types.
        """
        call, out = self.prepared(x, bias, residual, activation, to)
        call()
        return out

    def prepared(
        self,
        x: Words,
        bias: Tensor | None = None,
        residual: Tensor | Words | None = None,
        activation: str = "none",
        to: Scale | None = None,
    ) -> tuple[Callable[[], None], Tensor | Words]:
        """The native call of `convolve`, and its result once it was called: timing repeats only the former."""
        shape = self._required(x, bias, residual, activation, to)
        bias = None if bias is None else bias.contiguous()
        beside, scale, zero = residual.contiguous() if isinstance(residual, Tensor) else None, 1.0, 0
        if isinstance(residual, Words):
            beside, scale, zero = residual.values, float(residual.scale), int(residual.zero)
        out = torch.empty(shape) if to is None else torch.empty(words_shape(shape), dtype=torch.uint8)
        held = (x, bias, beside)  # the call knows addresses only

        def call() -> None:
            self.layout.convolve(
                x.values.data_ptr(), x.scale.data_ptr(), x.zero.data_ptr(), x.step,
                (x.shape[0], *x.shape[2:]),
                (*self.window.padding, *shape[2:]),
                *(0 if t is None else t.data_ptr() for t in held[1:]),
                scale, zero,
                ACTIVATIONS.index(activation),
                out.data_ptr(), to is not None, *(to or (1.0, 0)),
                torch.get_num_threads(),
            )  # fmt: skip

        if to is None:
            return call, out
        return call, Words(out, shape[1], torch.tensor([to[0]]), torch.tensor([to[1]], dtype=torch.int32))

    def _required(
        self, x: Words, bias: Tensor | None, residual: Tensor | Words | None, activation: str, to: Scale | None
    ) -> tuple[int, int, int, int]:
        """Checks everything; gives the result's shape."""
        channels = self.shape[1] * self.window.groups
        if x.channels != channels:
            raise ShapeError(f"{_WHERE}: x has {x.channels} channels, the weight {self.shape} takes {channels}")
        shape = self.out_shape(x.shape)
        if min(shape[2:]) < 1:
            raise ShapeError(
                f"{_WHERE}: an image of {x.shape[2]} x {x.shape[3]} is smaller than the kernel {self.shape[2:]} of "
                f"{self.window}; give a larger image or more padding"
            )
        require_bias(_WHERE, bias, self.shape[0])
        require_floats(_WHERE, bias=bias, residual=residual if isinstance(residual, Tensor) else None)
        if residual is not None and (tuple(residual.shape) != shape or isinstance(residual, Words) != (to is not None)):
            raise ShapeError(
                f"{_WHERE}: residual is {type(residual).__name__} {tuple(residual.shape)}, the result "
                f"{'Tensor' if to is None else 'Words'} {shape}; they must agree"
            )
        if isinstance(residual, Words) and residual.step:
            raise ShapeError(f"{_WHERE}: residual has a scale for each image; it must have one for all")
        if activation not in ACTIVATIONS:
            raise unknown_name(f"{_WHERE}: activation", activation, ACTIVATIONS)
        return shape

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.to_dense(), self.window, self.kernel)

    def __copy__(self) -> "PackedConv8":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedConv8":
        return self


def _unpickle(weight: Tensor, window: Window, kernel: str) -> PackedConv8:
    known = {k.name for k in kernels()} | set(depthwise_candidates(weight, window, eight=True))
    return pack_conv8(weight, window, kernel if kernel in known else None)


def kernels() -> list[ConvKernel]:
    """Every compiled 8-bit convolution kernel that this process may use."""
    module = native.module()
    if module is None:
        return []
    allowed = native.LEVELS.index(module.isa())
    return [ConvKernel(*one) for one in module.conv8_kernels() if native.LEVELS.index(one[1]) <= allowed]


def is_conv8(kernel: str) -> bool:
    """Whether a convolution kernel of this name is an 8-bit one."""
    return kernel.startswith(("conv8-", "depthwise8-"))


def conv8_candidates(weight: Tensor, window: Window = _PLAIN) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in / groups, kh, kw), likely best first; [] without any.

    What is stored are words, a tap of four input channels: blocks of output channels are worth it where they share most
    of their words.
    """
    usable = kernels()
    best = max((k.isa for k in usable), key=native.LEVELS.index, default="")
    usable = [k for k in usable if k.isa == best]
    words = _words(weight)
    apart = [k.name for k in usable if not k.together]
    together = [k.name for k in usable if k.together and fill(words, k.rows) > 0.6]
    dense = float(words.count_nonzero()) > 0.6 * words.numel()
    own = depthwise_candidates(weight, window, eight=True)
    return own + (together if dense and together else apart + together)


def _words(weight: Tensor) -> Tensor:
    """Which words of the weight are stored: 0 or 1, (out, fours(in), kh * kw)."""
    out, into = weight.shape[:2]
    padded = torch.zeros(out, fours(into) * TOGETHER, weight[0, 0].numel() if weight.numel() else 1)
    padded[:, :into] = (weight != 0).flatten(2)
    return padded.view(out, fours(into), TOGETHER, -1).amax(2)


def pack_conv8(weight: Tensor, window: Window = _PLAIN, kernel: str | None = None) -> PackedConv8:
    """Rounds a convolution weight (out, in / groups, kh, kw), float32 with exact zeros, to int8 and lays it out.

    The scale of an output channel is its largest magnitude over 127; zeros stay zeros. Without a kernel's name the
    likely best is taken. Raises DTypeError or ShapeError for another type or rank, UnknownNameError for a kernel that
    is not there, ValueError for one that this CPU (or RAREFY_ISA) does not allow, or a channel whose sum could pass 32
    bits.
    """
    require_floats("pack_conv8", weight=weight)
    if weight.dim() != 4 or 0 in weight.shape[2:]:
        raise ShapeError(f"pack_conv8: weight has shape {tuple(weight.shape)}, it must be (out, in / groups, kh, kw)")
    if why := window.why_not():
        raise ShapeError(f"pack_conv8: {window} makes no sense: {why}")
    if weight.shape[0] % window.groups:
        raise ShapeError(f"pack_conv8: {weight.shape[0]} output channels cannot be cut into groups={window.groups}")
    module = native.module()
    if module is None:
        raise EngineError(f"pack_conv8: 8-bit convolutions are native, and {native.why_not()}")
    name = kernel or conv8_candidates(weight, window)[0]
    compiled = [listed[0] for listed in module.conv8_kernels()]
    if name not in compiled and not is_depthwise_kernel(name):
        raise unknown_name("pack_conv8: kernel", name, compiled)
    out, into, high, wide = weight.shape
    stored = quantize_weight(weight.detach().reshape(out, into * high * wide))
    codes, scale = stored.values.contiguous(), stored.scale.flatten().contiguous()
    sizes, steps = (out, into, window.groups, high, wide), (*window.stride, *window.dilation)
    made = module.PackedDepthwise8 if is_depthwise_kernel(name) else module.PackedConv8
    layout = made(codes.data_ptr(), scale.data_ptr(), sizes, steps, name)
    return PackedConv8((out, into, high, wide), window, layout.nnz, layout.nbytes, name, layout)


def see_conv8(
    file: Any, at: int, nbytes: int, shape: tuple[int, int, int, int], window: Window, kernel: str
) -> PackedConv8:
    """A packed weight (out, in / groups, kh, kw) in bytes [at, at + nbytes) of a mapped file, as `packed_bytes` gave
    them. Raises ValueError as `see`."""
    module = native.module()
    assert module is not None  # the file is mapped by it
    out, into, high, wide = shape
    sizes, steps = (out, into, window.groups, high, wide), (*window.stride, *window.dilation)
    seen = module.PackedDepthwise8 if is_depthwise_kernel(kernel) else module.PackedConv8
    layout = seen(file, at, nbytes, sizes, steps, kernel)
    return PackedConv8(shape, window, layout.nnz, layout.nbytes, kernel, layout)
