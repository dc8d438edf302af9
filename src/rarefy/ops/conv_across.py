"""Images across the lanes of vectors: (blocks, channels, height, width, lanes), one pixel of 16 images in a vector.

No lane is ever outside an image, whatever its width, and every access is a whole aligned vector. The layout pays for
batches of about as many images as there are lanes, or more.
"""

import torch
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.ops import native
from rarefy.ops.conv import PackedConv
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
    images, width = images.contiguous(), lanes()
    out = torch.empty(-(-images.shape[0] // width), *images.shape[1:], width) if out is None else out
    size = images.shape[1:].numel()
    module.turn_across(images.data_ptr(), images.shape[0], size, out.data_ptr(), False, torch.get_num_threads())
    return out


def from_across(across: Tensor, batch: int) -> Tensor:
    """The way back: the first `batch` images as (batch, channels, height, width)."""
    out = torch.empty(batch, *across.shape[1:-1])
    module = native.module()
    assert module is not None
    module.turn_across(across.data_ptr(), batch, out.shape[1:].numel(), out.data_ptr(), True, torch.get_num_threads())
    return out


def convolve_across(
    packed: PackedConv, x: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str
) -> Tensor:
    """act(conv(x) + bias + residual) on images across the lanes, the weight packed with `across=True`.

    x (blocks, in, height, width, lanes), contiguous; residual like the result. Checked by the caller.
    """
    blocks, _, height, width, count = x.shape
    _, channels, high, wide = packed.out_shape((blocks, *x.shape[1:4]))
    out = torch.empty(blocks, channels, high, wide, count)
    packed.layout.convolve_across(
        x.data_ptr(),
        (blocks, height, width),
        (*packed.window.padding, high, wide),
        0 if bias is None else bias.data_ptr(),
        0 if residual is None else residual.data_ptr(),
        ACTIVATIONS.index(activation),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out
