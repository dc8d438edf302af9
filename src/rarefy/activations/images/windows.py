"""A convolution at some positions only: gather their windows, one matrix product, scatter the results back."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.core.errors import ModelError, ShapeError
from rarefy.core.shapes import Bool, Float

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Geometry:
    """How a convolution walks over an image; all pairs are (rows, columns)."""

    window: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Geometry":
        """That of a layer. Raises ModelError where it pads with anything but zeros."""
        if conv.padding_mode != "zeros":
            raise ModelError(f"Conv2d: pads with {conv.padding_mode!r}; windows are gathered from zero padding only")
        reach = tuple(d * (k - 1) for d, k in zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True))
        if conv.padding == "same" and any(r % 2 for r in reach):
            raise ModelError("Conv2d: 'same' padding of an even reach is lopsided; give the padding as numbers")
        named = {"valid": (0, 0), "same": (reach[0] // 2, reach[1] // 2)}
        padding = named[conv.padding] if isinstance(conv.padding, str) else _pair(conv.padding)
        return cls(_pair(conv.kernel_size), _pair(conv.stride), padding, _pair(conv.dilation), conv.groups)

    def output(self, height: int, width: int) -> Pair:
        """The size of what the convolution gives for an image of this size."""
        parts = zip((height, width), self.window, self.stride, self.padding, self.dilation, strict=True)
        h, w = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in parts)
        return h, w

    @cached_property
    def taps(self) -> list[Pair]:
        """Offsets of the window's entries from its first one."""
        rows, columns = (range(0, d * k, d) for d, k in zip(self.dilation, self.window, strict=True))
        return [(i, j) for i in rows for j in columns]


def _pair(value: object) -> Pair:
    found = tuple(value) if isinstance(value, tuple | list) else (value, value)
    return int(found[0]), int(found[1])


def convolve_at(
    x: Float[Tensor, "images channels height width"],
    weight: Float[Tensor, "out inner rows columns"],
    bias: Float[Tensor, "out"] | None,
    geometry: Geometry,
    active: Bool[Tensor, "some height_out width_out"],
) -> Float[Tensor, "images out height_out width_out"]:
    """The convolution where `active` is True, zeros elsewhere; the product has as many rows as there are such places.

    active: one mask for all images (some = 1) or one an image. Equal to the dense convolution times the mask, to
    rounding; differentiable. Raises ShapeError where the mask has not the size of the output.
    """
    size = geometry.output(x.shape[2], x.shape[3])
    if active.shape[1:] != size or active.shape[0] not in (1, len(x)):
        raise ShapeError(
            f"convolve_at: the mask has shape {tuple(active.shape)}, but {tuple(x.shape)} gives outputs of "
            f"({len(x)}, {size[0]}, {size[1]}); give one mask of that size, or one an image"
        )
    places = active.expand(len(x), -1, -1).reshape(-1).nonzero()[:, 0]
    found = product(windows(x, geometry, places), weight, geometry.groups)
    if bias is not None:
        found = found + bias
    out = found.new_zeros(active[0].numel() * len(x), len(weight)).index_copy(0, places, found)
    return out.view(len(x), *size, len(weight)).permute(0, 3, 1, 2)


def windows(x: Tensor, geometry: Geometry, places: Tensor) -> Float[Tensor, "places taps channels"]:
    """The windows of some output places, counted through image, row and column; channels lie next to each other."""
    (top, left), (down, right) = geometry.padding, geometry.stride
    height, width = geometry.output(x.shape[2], x.shape[3])
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top))
    tall, wide = padded.shape[1:3]
    image, inside = places // (height * width), places % (height * width)
    first = (image * tall + inside // width * down) * wide + inside % width * right
    taps = torch.tensor([i * wide + j for i, j in geometry.taps], device=x.device)
    rows = padded.reshape(-1, x.shape[1])
    index = (first[:, None] + taps).view(-1)
    return rows.index_select(0, index).view(len(places), len(taps), x.shape[1])


def product(found: Tensor, weight: Tensor, groups: int) -> Float[Tensor, "places out"]:
    """Gathered windows times the weights: one product, one a group, or sums where every channel is its own group."""
    places, taps, channels = found.shape
    out, inner = weight.shape[:2]
    if groups == 1:
        return F.linear(found.view(places, taps * channels), weight.permute(0, 2, 3, 1).reshape(out, -1))
    if groups == channels == out:
        return (found * weight.reshape(channels, taps).t()).sum(1)
    each = found.view(places, taps, groups, inner).permute(2, 0, 1, 3).reshape(groups, places, taps * inner)
    maps = weight.reshape(groups, out // groups, inner, taps).permute(0, 3, 2, 1).reshape(groups, taps * inner, -1)
    return torch.bmm(each, maps).transpose(0, 1).reshape(places, out)


def lay_out(conv: nn.Conv2d) -> nn.Conv2d:
    """Stores a layer's weight with the input channels innermost, as gathered windows have them; the numbers and the
    shape stay. Without it each product copies the weight first, which costs more than the product in late layers."""
    if conv.groups == 1:
        conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)
    return conv
