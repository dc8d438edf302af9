"""Images as bytes, four channels together: a word of four bytes is one pixel of four channels.

It is what the 8-bit convolutions read and write: a word times a word of four weights is one instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, EngineError, ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats
from rarefy.ops.conv_pool import Pool

TOGETHER = 4  # channels in a word


def fours(channels: int) -> int:
    """Words a pixel takes."""
    return -(-channels // TOGETHER)


@dataclass(frozen=True, eq=False)
class Words:
    """x ~ scale (values - zero), images of `channels` channels.

    values: uint8 (batch, fours(channels), height, width, 4), contiguous; bytes beyond the last channel are anything.
    scale float32, zero int32: (1) for all images, or (batch).
    """

    values: Tensor
    channels: int
    scale: Tensor
    zero: Tensor

    def __post_init__(self) -> None:
        kinds = self.values.dtype, self.scale.dtype, self.zero.dtype
        if kinds != (torch.uint8, torch.float32, torch.int32):
            raise DTypeError(f"Words: values, scale and zero are {kinds}; they must be uint8, float32 and int32")
        shape = tuple(self.values.shape)
        if len(shape) != 5 or shape[1] != fours(self.channels) or shape[4] != TOGETHER:
            raise ShapeError(
                f"Words: values have shape {shape}; they must be (batch, {fours(self.channels)}, height, width, "
                f"{TOGETHER}) for {self.channels} channels"
            )
        if self.scale.shape != self.zero.shape or self.scale.shape not in ((1,), shape[:1]):
            raise ShapeError(
                f"Words: scale {tuple(self.scale.shape)} and zero {tuple(self.zero.shape)} must both be (1) or "
                f"{shape[:1]}"
            )
        if not self.values.is_contiguous():
            raise ShapeError("Words: values must be contiguous")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, channels, height, width)."""
        batch, _, height, width, _ = self.values.shape
        return batch, self.channels, height, width

    @property
    def step(self) -> int:
        """From one image's scale to the next's."""
        return 0 if self.scale.shape[0] == 1 else 1

    def codes(self) -> Tensor:
        """The bytes as uint8 (batch, channels, height, width)."""
        return self.values.permute(0, 1, 4, 2, 3).flatten(1, 2)[:, : self.channels]

    def floats(self) -> Tensor:
        """What the bytes stand for, float32 (batch, channels, height, width)."""
        module = native.module()
        if module is None or self.step == 1:
            each, shift = (t.view(-1, 1, 1, 1) for t in (self.scale, self.zero))
            return (self.codes().int() - shift) * each
        out = torch.empty(self.shape)
        batch, channels, height, width = self.shape
        here = torch.get_num_threads()
        scale, zero = float(self.scale), int(self.zero)
        module.from_words(
            self.values.data_ptr(), batch, channels, height * width, scale, zero, out.data_ptr(), here
        )  # fmt: skip
        return out


def words_of(x: Tensor, scale: tuple[float, int] | None = None) -> Words:
    """float32 (batch, channels, height, width) as words: round(x / scale) + zero, saturated, ties to even.

    scale: (scale, zero) of all images; None: each image's own range, widened to hold 0, in 255 steps. An image with a
    value that is not finite then has the scale NaN, so that every result of it is NaN.
    """
    require_floats("words_of", x=x)
    if x.dim() != 4:
        raise ShapeError(f"words_of: x has shape {tuple(x.shape)}, it must be (batch, channels, height, width)")
    module = native.module()
    if module is None:
        raise EngineError(f"words_of: images of words are native, and {native.why_not()}")
    x = x.contiguous()
    batch, channels, height, width = x.shape
    values = torch.empty(words_shape(x.shape), dtype=torch.uint8)
    if scale is None:
        by, zero = torch.empty(batch), torch.empty(batch, dtype=torch.int32)
    else:
        by, zero = torch.tensor([scale[0]]), torch.tensor([scale[1]], dtype=torch.int32)
    module.to_words(
        x.data_ptr(), batch, channels, height * width, scale is None, by.data_ptr(), zero.data_ptr(), values.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return Words(values, channels, by, zero)


def words_shape(shape: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Of the values for an image (batch, channels, height, width)."""
    batch, channels, height, width = shape
    return batch, fours(channels), height, width, TOGETHER


def largest(x: Words, pool: Pool) -> Words:
    """Max pooling: rounding keeps the order, so this is the rounded pooling of what was rounded.

    A dilated window without a pixel gives the least code, where torch gives minus infinity.
    """
    module = native.module()
    assert module is not None  # words are made by it
    shape = pool.out_shape(x.shape)
    out = torch.empty(words_shape(shape), dtype=torch.uint8)
    planes, sizes = x.values.shape[0] * x.values.shape[1], (*x.shape[2:], *shape[2:])
    module.max_pool_words(x.values.data_ptr(), planes, sizes, pool.window, out.data_ptr(), torch.get_num_threads())
    return Words(out, x.channels, x.scale, x.zero)
