"""`rarefy::max_pool2d(x, kernel, stride, padding, dilation, ceil)`: torch's max pooling of NCHW images, natively.

x (batch, channels, height, width) float32 on the CPU; the lists are (down, across).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.checks import require_floats
from rarefy.ops.conv_reference import LARGEST_STEP

_WHERE = "rarefy::max_pool2d"
_library = torch.library.Library("rarefy", "FRAGMENT")
_library.define(
    "max_pool2d(Tensor x, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, bool ceil=False) -> Tensor"
)


def _size(size: Any, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Any:
    """Outputs along one axis; a last window that begins in the padding on the far side does not count."""
    span = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= size + padding else count


@dataclass(frozen=True)
class Pool:
    """The window of a max pooling; each pair is (down, across)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil: bool = False

    @property
    def window(self) -> tuple[int, ...]:
        """What the native module takes."""
        return (*self.kernel, *self.stride, *self.padding, *self.dilation)

    def out_shape(self, x: Sequence[Any]) -> tuple[Any, ...]:
        """The shape of the result for an input of shape x."""
        steps = (*self.kernel, *self.stride, *self.dilation)
        if not all(1 <= n <= LARGEST_STEP for n in steps):
            raise ShapeError(
                f"{_WHERE}: kernel {self.kernel}, stride {self.stride} and dilation {self.dilation} must be in "
                f"[1, {LARGEST_STEP}]"
            )
        if len(x) != 4 or any(2 * p > k or p < 0 for p, k in zip(self.padding, self.kernel, strict=True)):
            raise ShapeError(
                f"{_WHERE}: x has shape {tuple(x)} and the padding is {self.padding}; x must be (batch, channels, "
                f"height, width) and the padding at most half of the kernel {self.kernel}"
            )
        axes = zip(x[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return (*x[:2], *(_size(*axis, self.ceil) for axis in axes))

    def largest(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """The largest value of each window of contiguous x, into `out` if it is given. Checked by the caller."""
        module = native.module()
        if module is None:
            pairs = (self.kernel, self.stride, self.padding, self.dilation)
            result = F.max_pool2d(x, *pairs, self.ceil)
            return result if out is None else out.copy_(result)
        out = torch.empty(self.out_shape(x.shape)) if out is None else out
        sizes = (*x.shape[2:], *out.shape[2:])
        window = (*self.kernel, *self.stride, *self.padding, *self.dilation)
        module.max_pool(x.data_ptr(), x.shape[0] * x.shape[1], sizes, window, out.data_ptr(), torch.get_num_threads())
        return out


def pool_of(
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> Pool:
    """From the arguments of torch's max_pool2d: one number stands for both axes, no stride for the kernel's size."""
    pairs = (kernel, stride or kernel, padding, dilation)
    if not all(len(v) in (1, 2) for v in pairs):
        raise ShapeError(f"{_WHERE}: kernel, stride, padding and dilation are {pairs}; each must be one number or two")
    sides, steps, pads, far = ((v[0], v[-1]) for v in pairs)
    return Pool(sides, steps, pads, far, ceil)


def max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool = False,
) -> Tensor:
    """The largest value of each window, natively where the native module is there."""
    require_floats(_WHERE, x=x)
    pool = pool_of(kernel, stride, padding, dilation, ceil)
    if min(pool.out_shape(x.shape)[2:]) < 1:
        raise ShapeError(f"{_WHERE}: an image of {tuple(x.shape[2:])} is smaller than the kernel {list(kernel)}")
    return pool.largest(x.contiguous())


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.window = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Where each largest value was is found again: cheaper than keeping it."""
    (x,) = ctx.saved_tensors
    indices = torch.ops.aten.max_pool2d_with_indices(x, *ctx.window)[1]
    dx = torch.ops.aten.max_pool2d_with_indices_backward(grad.contiguous(), x, *ctx.window, indices)
    return dx, None, None, None, None, None


_library.impl("max_pool2d", max_pool2d, "CPU")
torch.library.register_fake(
    "rarefy::max_pool2d",
    lambda x, kernel, stride, padding, dilation, ceil=False: x.new_empty(
        pool_of(kernel, stride, padding, dilation, ceil).out_shape(x.shape)
    ),
    lib=_library,
)
torch.library.register_autograd("rarefy::max_pool2d", _backward, setup_context=_save, lib=_library)
