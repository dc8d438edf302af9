"""Products with a sparse weight while it is trained: forward, input gradient, and the gradient of the kept entries.

The index of the weight is checked and prepared once; values change at every step. A linear layer is a convolution of
images of one pixel. Without the native module the same results come from a dense weight in torch.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import grad as nn_grad

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import csr_index, require_bias, require_csr, require_floats, require_size
from rarefy.ops.conv_reference import Window


@dataclass(frozen=True)
class Layer:
    """A weight `(out, image[0] / groups, *kernel)` and its images `(channels, height, width)`."""

    out: int
    image: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    window: Window = field(default_factory=Window)

    @property
    def width(self) -> int:
        """Columns of the weight as a matrix."""
        return self.image[0] // self.window.groups * self.kernel[0] * self.kernel[1]

    @property
    def out_image(self) -> tuple[int, int, int]:
        """Channels, height and width of the result."""
        return (self.out, *self.window.out_size(self.image[1:], self.kernel))

    def check(self, where: str) -> None:
        """Refuses sizes that no convolution has."""
        require_size(where, "out channels", self.out)
        for name, size in zip(("channels", "height", "width"), self.image, strict=True):
            require_size(where, name, size)
        bad = self.window.why_not()
        groups = self.window.groups
        if bad is None and (self.out % groups or self.image[0] % groups):
            bad = f"{self.image[0]} input and {self.out} output channels must both be multiples of groups={groups}"
        if bad is None and not all(1 <= taps <= 2**10 for taps in self.kernel):
            bad = f"the kernel is {self.kernel}; each side must be in [1, 1024]"
        if bad is None and min(self.out_image[1:]) < 1:
            bad = f"images of {self.image[1:]} give a result of {self.out_image[1:]}; use larger images or more padding"
        if bad is not None:
            raise ShapeError(f"{where}: {bad}")


class TrainIndex:
    """Where the kept entries of a weight lie, prepared for one layer; checked once, never changed.

    row_offsets: (out + 1); columns: (entries), in the order of rows, each in [0, layer.width).
    """

    def __init__(self, layer: Layer, row_offsets: Tensor, columns: Tensor) -> None:
        where = "ops.TrainIndex"
        layer.check(where)
        self.layer, self.entries = layer, columns.numel()
        columns, offsets = csr_index(where, columns, row_offsets, self.entries, layer.out)
        module = native.module()
        self._native: Any = None
        if module is None:
            require_csr(where, columns, offsets, self.entries, layer.width)
            self._offsets, self._columns = offsets.clone(), columns.clone()
        else:
            window = layer.window
            steps = (*layer.kernel, *window.stride, *window.padding, *window.dilation)
            args = (offsets.data_ptr(), columns.data_ptr(), self.entries)
            self._native = module.TrainIndex(layer.image, layer.out, window.groups, steps, *args)

    @property
    def nbytes(self) -> int:
        """Bytes of the prepared index, forward and backward."""
        if self._native is None:
            return self._offsets.nbytes + self._columns.nbytes
        return int(self._native.nbytes)

    @cached_property
    def _places(self) -> Tensor:
        rows = torch.repeat_interleave(torch.arange(self.layer.out), self._offsets.diff())
        return rows * self.layer.width + self._columns

    def _dense(self, values: Tensor) -> Tensor:
        layer = self.layer
        dense = torch.zeros(layer.out * layer.width)
        dense[self._places] = values
        return dense.view(layer.out, layer.image[0] // layer.window.groups, *layer.kernel)

    def _require(self, where: str, name: str, x: Tensor, image: tuple[int, int, int]) -> Tensor:
        require_floats(where, **{name: x})
        if x.dim() == 0 or x.numel() != x.shape[0] * image[0] * image[1] * image[2]:
            raise ShapeError(f"{where}: {name} has shape {tuple(x.shape)}; it must hold images of {image}")
        return x.contiguous()

    def _values(self, where: str, values: Tensor) -> Tensor:
        require_floats(where, values=values)
        if tuple(values.shape) != (self.entries,):
            raise ShapeError(f"{where}: values have shape {tuple(values.shape)}, the index has {self.entries} entries")
        return values.contiguous()

    def forward(self, values: Tensor, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer's result `(images, *out_image)` for x `(images, *image)`, with bias `(out)` or none."""
        where, layer = "TrainIndex.forward", self.layer
        x, values = self._require(where, "x", x, layer.image), self._values(where, values)
        require_floats(where, bias=bias)
        require_bias(where, bias, layer.out)
        if self._native is None:
            w, images = layer.window, x.view(-1, *layer.image)
            return F.conv2d(images, self._dense(values), bias, w.stride, w.padding, w.dilation, w.groups)
        out = torch.empty(x.shape[0], *layer.out_image)
        shift = None if bias is None else bias.contiguous()
        address = 0 if shift is None else shift.data_ptr()
        threads = torch.get_num_threads()
        self._native.forward(values.data_ptr(), x.data_ptr(), x.shape[0], address, out.data_ptr(), threads)
        return out

    def input_grad(self, values: Tensor, grad: Tensor) -> Tensor:
        """The gradient of x `(images, *image)` from that of the result."""
        where, layer = "TrainIndex.input_grad", self.layer
        grad, values = self._require(where, "grad", grad, layer.out_image), self._values(where, values)
        shape = (grad.shape[0], *layer.image)
        if self._native is None:
            w, images = layer.window, grad.view(-1, *layer.out_image)
            dense = self._dense(values)
            return nn_grad.conv2d_input(shape, dense, images, w.stride, w.padding, w.dilation, w.groups)
        out = torch.empty(shape)
        threads = torch.get_num_threads()
        self._native.input_grad(values.data_ptr(), grad.data_ptr(), grad.shape[0], out.data_ptr(), threads)
        return out

    def weight_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        """The gradient of the kept entries `(entries)`; that of no other entry is computed."""
        where, layer = "TrainIndex.weight_grad", self.layer
        grad = self._require(where, "grad", grad, layer.out_image)
        x = self._require(where, "x", x, layer.image)
        if x.shape[0] != grad.shape[0]:
            raise ShapeError(f"{where}: grad is of {grad.shape[0]} images and x of {x.shape[0]}; they must be the same")
        if self._native is None:
            return self._dense_grad(grad, x).flatten()[self._places]
        out = torch.empty(self.entries)
        threads = torch.get_num_threads()
        self._native.weight_grad(grad.data_ptr(), x.data_ptr(), x.shape[0], out.data_ptr(), threads)
        return out

    def _dense_grad(self, grad: Tensor, x: Tensor) -> Tensor:
        layer, w = self.layer, self.layer.window
        shape = (layer.out, layer.image[0] // w.groups, *layer.kernel)
        images, grads = x.view(-1, *layer.image), grad.view(-1, *layer.out_image)
        return nn_grad.conv2d_weight(images, shape, grads, w.stride, w.padding, w.dilation, w.groups)
