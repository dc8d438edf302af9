"""A convolution that is really sparse in training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError, ShapeError
from rarefy.core.shapes import Bool
from rarefy.ops import Layer, Window, window_of
from rarefy.training.runtime.function import Seen, product
from rarefy.training.runtime.module import SparseModule
from rarefy.training.runtime.topology import Topology

Pair = tuple[int, int]


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class SparseConv2d(SparseModule):
    """A convolution of which only the kept taps exist; no patches are copied out, forward or backward.

    topology: `(out_channels, in_channels / groups * kernel)`, the flattened weight.

    Source: Nikdan et al. 2023 (SparseProp), arXiv:2302.04852, section 3.2.
    Differs: images lie across the vector lanes, so that any stride and the smallest planes are one loop.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        topology: Topology,
        *,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        kernel = _pair(kernel_size)
        wanted = (out_channels, in_channels // groups * kernel[0] * kernel[1])
        if topology.shape != wanted:
            raise ShapeError(f"SparseConv2d: the topology is {topology.shape}, the flattened weight {wanted}")
        super().__init__(topology, bias)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel
        self.window = Window(_pair(stride), _pair(padding), _pair(dilation), groups)

    @classmethod
    def from_dense(cls, source: nn.Conv2d, mask: Bool[Tensor, "..."]) -> "SparseConv2d":
        """The kept weights of a convolution, with a copy of its bias. mask: the weight's shape, or flattened to 2-d."""
        window = window_of(source)
        if window is None:
            raise ModelError(
                f"SparseConv2d.from_dense: padding {source.padding!r} of mode {source.padding_mode!r}; only zeros on "
                "both sides alike can be skipped, keep this layer dense"
            )
        made = cls(
            source.in_channels,
            source.out_channels,
            _pair(source.kernel_size),  # type: ignore[arg-type]
            Topology(mask.reshape(source.out_channels, -1)),
            stride=window.stride,
            padding=window.padding,
            dilation=window.dilation,
            groups=window.groups,
            bias=source.bias is not None,
        )
        made._copy(source)
        return made

    def to_dense(self) -> nn.Conv2d:
        """The same layer as a dense one with exact zeros."""
        w = self.window
        made = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            w.stride,
            w.padding,
            w.dilation,
            w.groups,
            bias=self.bias is not None,
            dtype=self.values.dtype,
        )
        return self._copy_back(made)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.out_channels, self.in_channels // self.window.groups, *self.kernel_size)

    @torch.compiler.disable  # addresses of memory are nothing to trace
    def forward(self, x: Tensor) -> Tensor:
        """x `(images, in_channels, height, width)`, or one image without the first dimension."""
        return conv_product(x, self.values, self.bias, self.topology, self.kernel_size, self.window, self._seen)

    def extra_repr(self) -> str:
        w = self.window
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={w.stride}, "
            f"padding={w.padding}, dilation={w.dilation}, groups={w.groups}, density={self.topology.density:.4g}"
        )


def conv_product(
    x: Tensor,
    values: Tensor,
    bias: Tensor | None,
    topology: Topology,
    kernel: Pair,
    window: Window,
    seen: Callable[[Layer], Seen | None],
) -> Tensor:
    """The convolution of x `(images, channels, height, width)`, or of one image, with the kept values of a weight."""
    channels = topology.shape[1] // (kernel[0] * kernel[1]) * window.groups
    if x.dim() not in (3, 4) or x.shape[-3] != channels:
        raise ShapeError(f"SparseConv2d: x has shape {tuple(x.shape)}; it must be (images, {channels}, height, width)")
    images = x if x.dim() == 4 else x.unsqueeze(0)
    layer = Layer(topology.shape[0], (channels, images.shape[2], images.shape[3]), kernel, window)
    y = product(images, values, bias, topology, layer, seen(layer))
    return y if x.dim() == 4 else y.squeeze(0)
