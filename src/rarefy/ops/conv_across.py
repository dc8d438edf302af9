"""Images across the lanes of vectors: (blocks, channels, height, width, lanes), one pixel of 16 images in a vector.

No lane is ever outside an image, whatever its width, and every access is a whole aligned vector. The layout pays for
batches of about as many images as there are lanes, or more.
"""

from functools import cache

import torch
from torch import Tensor

from rarefy.core.errors import EngineError, ShapeError, unknown_name
from rarefy.ops import native
from rarefy.ops.checks import require_bias, require_floats
from rarefy.ops.conv import PackedConv
from rarefy.ops.conv_kernels import best_isa, is_winograd_kernel, kernels_across, winograd_kernels
from rarefy.ops.conv_pool import Pool
from rarefy.ops.conv_reference import ACTIVATIONS


def lanes() -> int:
    """How many images are in a block; 0 without the native module."""
    module = native.module()
    return 0 if module is None else int(module.lanes_across())


def to_across(images: Tensor, out: Tensor | None = None) -> Tensor:
    """(batch, channels, height, width) as (blocks, channels, height, width, lanes); lanes beyond the batch are 0."""
    module = native.module()
    if module is None:
        raise EngineError(f"to_across: images go across the lanes of native kernels only, and {native.why_not()}")
    require_floats("to_across", images=images, out=out)
    if images.dim() != 4:
        raise ShapeError(f"to_across: images have shape {tuple(images.shape)}, not (batch, channels, height, width)")
    images, width = images.contiguous(), lanes()
    shape = (-(-images.shape[0] // width), *images.shape[1:], width)
    out = torch.empty(shape) if out is None else out
    if tuple(out.shape) != shape or not out.is_contiguous():
        raise ShapeError(f"to_across: out has shape {tuple(out.shape)}; it must be {shape} and contiguous")
    size = images.shape[1:].numel()
    module.turn_across(images.data_ptr(), images.shape[0], size, out.data_ptr(), False, torch.get_num_threads())
    return out


@cache
def _fitting(isa: str) -> frozenset[str]:
    """The kernels whose vectors hold as many images as a block does, for the instruction set in force."""
    return frozenset([*kernels_across(), *(k.name for k in winograd_kernels() if k.isa == best_isa())])


def _require(where: str, x: Tensor) -> None:
    """Blocks of images of this process's lanes."""
    require_floats(where, x=x)
    if x.dim() != 5 or x.shape[-1] != lanes():
        raise ShapeError(
            f"{where}: x has shape {tuple(x.shape)}, it must be (blocks, channels, height, width, {lanes()})"
        )


def from_across(across: Tensor, batch: int) -> Tensor:
    """The way back: the first `batch` images as (batch, channels, height, width)."""
    module = native.module()
    assert module is not None
    _require("from_across", across)
    if not 0 <= batch <= across.shape[0] * across.shape[-1]:
        raise ShapeError(
            f"from_across: batch is {batch}, but {tuple(across.shape)} holds no more than its blocks' lanes"
        )
    across, out = across.contiguous(), torch.empty(batch, *across.shape[1:-1])
    module.turn_across(across.data_ptr(), batch, out.shape[1:].numel(), out.data_ptr(), True, torch.get_num_threads())
    return out


def convolve_across(
    packed: PackedConv,
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    activation: str,
    out: Tensor | None = None,
) -> Tensor:
    """act(conv(x) + bias + residual) on images across the lanes, the weight packed with `across=True`.

    x (blocks, in, height, width, lanes) and residual, like the result, are contiguous. out: where the result is
    written; new memory where it is None.
    """
    between = _out_shape("convolve_across", packed, x)
    blocks, _, height, width, count = x.shape
    shape = (blocks, *between[1:], count)
    _require_parts("convolve_across", shape, bias, residual, out, activation)
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    out = torch.empty(shape) if out is None else out
    packed.layout.convolve_across(
        x.data_ptr(),
        (blocks, height, width),
        (*packed.window.padding, *between[2:]),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        ACTIVATIONS.index(activation),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def pooled_across(
    packed: PackedConv, x: Tensor, bias: Tensor | None, activation: str, pool: Pool, out: Tensor | None = None
) -> Tensor:
    """pool(act(conv(x) + bias)) on images across the lanes, the weight packed for a kernel of minimal filtering.

    x and out as for `convolve_across`, out of the pooled size. Raises EngineError for another kernel or a pooling with
    dilation, ValueError for windows that overlap too much (by more than 16 rows or columns).
    """
    where = "pooled_across"
    if not is_winograd_kernel(packed.kernel) or pool.dilation != (1, 1):
        raise EngineError(
            f"{where}: kernel {packed.kernel!r} with {pool}; only kernels of minimal filtering pool what they compute, "
            "without dilation: convolve_across, from_across and rarefy.ops.Pool.largest do the same in three steps"
        )
    between = _out_shape(where, packed, x)
    pooled = pool.out_shape(between)
    shape = (*pooled, x.shape[-1])
    _require_parts(where, shape, bias, None, out, activation)
    x, bias = x.contiguous(), None if bias is None else bias.contiguous()
    out = torch.empty(shape) if out is None else out
    packed.layout.convolve_pooled(
        x.data_ptr(),
        (x.shape[0], *x.shape[2:4]),
        (*packed.window.padding, *between[2:]),
        0 if bias is None else bias.data_ptr(),
        ACTIVATIONS.index(activation),
        pool.window,
        pooled[2:],
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def _out_shape(where: str, packed: PackedConv, x: Tensor) -> tuple[int, int, int, int]:
    """(blocks, out, height, width) of the convolution of x, where it can be computed."""
    module = native.module()
    assert module is not None  # images lie across only where it is
    _require(where, x)
    if packed.kernel not in _fitting(str(module.isa())):
        raise EngineError(
            f"{where}: kernel {packed.kernel!r} has other vectors than images lie across; "
            "pack_conv(..., across=True) without a kernel takes one that fits"
        )
    shape = packed.out_shape(x.shape[:4])
    if not packed.across or x.shape[1] != packed.shape[1] * packed.window.groups or min(shape[2:]) < 1:
        raise ShapeError(
            f"{where}: x has shape {tuple(x.shape)} for a weight {packed.shape} of {packed.window}, packed "
            f"with across={packed.across}; pack it with across=True, give its input channels and a large enough image"
        )
    return shape


def _require_parts(
    where: str,
    shape: tuple[int, ...],
    bias: Tensor | None,
    residual: Tensor | None,
    out: Tensor | None,
    activation: str,
) -> None:
    """What goes with x fits a result (blocks, channels, height, width, lanes)."""
    require_floats(where, bias=bias, residual=residual, out=out)
    require_bias(where, bias, shape[1])
    for name, given in (("residual", residual), ("out", out)):
        if given is not None and (tuple(given.shape) != shape or not given.is_contiguous()):
            raise ShapeError(f"{where}: {name} has shape {tuple(given.shape)}; it must be {shape}, contiguous")
    if activation not in ACTIVATIONS:
        raise unknown_name(f"{where}: activation", activation, ACTIVATIONS)
