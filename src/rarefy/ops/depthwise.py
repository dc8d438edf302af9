"""Which depthwise convolutions have kernels of their own: 3x3, stride 1 or 2, one channel in and out of a group.

Zeros of so small a weight are multiplied like the others: nothing is gained by looking for them.
"""

from torch import Tensor

from rarefy.ops import native
from rarefy.ops.conv_reference import Window


def is_depthwise(weight: Tensor, window: Window) -> bool:
    """Whether the kernels take this weight (out, in / groups, kh, kw)."""
    alone = window.groups == weight.shape[0] and tuple(weight.shape[1:]) == (1, 3, 3)
    return alone and window.stride in ((1, 1), (2, 2)) and window.dilation == (1, 1)


def depthwise_candidates(weight: Tensor, window: Window, *, eight: bool) -> list[str]:
    """The name of the kernel for this CPU, of floats or (`eight`) of bytes; [] where the weight is not for it."""
    module = native.module()
    if module is None or not is_depthwise(weight, window):
        return []
    return [module.depthwise_kernels()[eight]]


def is_depthwise_kernel(kernel: str) -> bool:
    """Whether a kernel of this name is one of these."""
    return kernel.startswith(("depthwise-", "depthwise8-"))
