"""The window of a convolution, and the fused convolution in plain torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

# In the order of conv::Activation in native/kernels/conv/contract.h.
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "gelu": F.gelu,
}
ACTIVATIONS = tuple(_FUNCTIONS)
LARGEST_STEP = 2**15  # pixels; beyond any image, and far below what overflows


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the image; each pair is (down, across)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def why_not(self) -> str | None:
        """Why no convolution has this window, None if one can."""
        steps, pads = (*self.stride, *self.dilation), self.padding
        if not (all(1 <= n <= LARGEST_STEP for n in steps) and all(0 <= n <= LARGEST_STEP for n in pads)):
            return f"strides and dilations must be in [1, {LARGEST_STEP}], padding in [0, {LARGEST_STEP}]"
        return None if 1 <= self.groups <= LARGEST_STEP else f"groups must be in [1, {LARGEST_STEP}]"

    def out_size(self, image: Sequence[Any], kernel: Sequence[int]) -> tuple[Any, Any]:
        """Height and width of the result."""
        sides = zip(image, kernel, self.stride, self.padding, self.dilation, strict=True)
        high, wide = ((size + 2 * pad - far * (taps - 1) - 1) // step + 1 for size, taps, step, pad, far in sides)
        return high, wide


def window_of(conv: nn.Conv2d) -> Window | None:
    """The window of a module, or None where its padding is not made of zeros on both sides alike."""
    padding = _padding_of(conv)
    if conv.padding_mode != "zeros" or padding is None:
        return None
    return Window(_pair(conv.stride), padding, _pair(conv.dilation), conv.groups)


def _padding_of(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Pixels on each side; None for "same" around a kernel that leaves one more on one side than on the other."""
    if conv.padding == "valid":
        return (0, 0)
    if not isinstance(conv.padding, str):
        return _pair(conv.padding)
    spans = [far * (taps - 1) for far, taps in zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True)]
    return None if any(span % 2 for span in spans) else (spans[0] // 2, spans[1] // 2)


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return (values[0], values[-1])


def activate(x: Tensor, activation: str) -> Tensor:
    """The named activation, elementwise."""
    return _FUNCTIONS[activation](x)


def conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, activation: str, window: Window
) -> Tensor:
    """act(conv(x) + bias + residual): x (batch, in, h, w), weight (out, in / groups, kh, kw), residual as y."""
    if weight.shape[0] == 0:  # torch refuses a weight without output channels
        return x.new_empty(x.shape[0], 0, *window.out_size(x.shape[2:], weight.shape[2:]))
    y = F.conv2d(x, weight, bias, window.stride, window.padding, window.dilation, window.groups)
    return activate(y if residual is None else y + residual, activation)
