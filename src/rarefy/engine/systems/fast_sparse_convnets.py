"""`fast-sparse-convnets`: sparse 1x1 convolutions on images that lie channel by channel."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.core.registry import method
from rarefy.engine.conv_choices import Image
from rarefy.engine.systems.choose import best
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedConv, Window, pack_conv
from rarefy.ops.conv_kernels import kernels
from rarefy.ops.conv_reference import conv2d

SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@method(
    "fast-sparse-convnets",
    role="kernel",
    source="Elsen et al. 2019, arXiv:1911.09723, section 3",
    protocols=("format",),
)
@dataclass(frozen=True)
class FastSparseConv:
    """A 1x1 convolution whose non-zeros are each multiplied with a contiguous run of pixels, y_o = sum_i w_oi x_i.

    block: output channels that share their column indices (1, 2 or 4). Stored are a value and the offset of its input
    per non-zero, or `block` values and one offset; some vectors of pixels of each channel stay in registers over all
    non-zeros; bias, an added residual and ReLU6 (or another activation) follow before the store. Images are NCHW.
    Differs: the offsets reach into a panel of a few input channels that is copied to the first-level cache, instead of
    pointer deltas into the image, which also gives strides, any window and depthwise convolutions; unstructured
    weights (block=1) still walk several channels at a time, each with its own offsets. Training (gradual magnitude
    pruning to 80-90 % of the 1x1 weights) is `rarefy.schedules` with `rarefy.prune(pattern="block:4x1")`. The
    bodies are for x86, not ARM.
    """

    block: int = 1

    def __post_init__(self) -> None:
        if self.block not in (1, 2, 4):
            raise EngineError(f"FastSparseConv: block={self.block}; choose 1, 2 or 4 output channels")

    def fits(self, weight: Tensor) -> str | None:
        """None, or why a weight (out, in / groups, height, width) is left alone."""
        if weight.dim() != 4 or tuple(weight.shape[2:]) != (1, 1):
            return f"not the weight of a 1x1 convolution but {tuple(weight.shape)}"
        if weight.dtype != torch.float32:
            return f"weights are {weight.dtype}, the kernels take float32"
        return (
            None if weight.shape[0] >= self.block else f"{weight.shape[0]} output channels are no block of {self.block}"
        )

    def pack_conv(self, weight: Tensor, window: Window = Window()) -> PackedConv:
        """The weight for the system's kernel on this CPU; `convolve` of the result computes."""
        name = best(
            "fast-sparse-convnets",
            kernels(),
            lambda k: (k.together and k.rows == self.block) if self.block > 1 else not k.together,
        ).name
        return pack_conv(weight, window, name)


Measure = Callable[[Tensor, Image, Sequence[int]], Mapping[str, float]]


def time_blocks(weight: Tensor, image: Image, blocks: Sequence[int]) -> dict[str, float]:
    """Milliseconds of torch's dense convolution ("dense") and of each block size ("1", "4") on one weight."""
    x = torch.randn(image[0], weight.shape[1], *image[1:], generator=torch.Generator().manual_seed(0))
    calls: dict[str, Callable[[], object]] = {"dense": partial(conv2d, x, weight, None, None, "none", Window())}
    for block in blocks:
        calls[str(block)] = partial(FastSparseConv(block).pack_conv(weight).convolve, x, None, None, "none")
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=9, warmup=2, seconds=0.5)
    return {name: rounds.median(name) for name in calls}


def break_even(
    shape: tuple[int, int],
    image: Image,
    block: int = 4,
    sparsities: Sequence[float] = SPARSITIES,
    measure: Measure = time_blocks,
) -> float | None:
    """The least of the sparsities from which on blocks of zeros are faster than the dense convolution; None: none is.

    shape: (out, in); image: (batch, height, width).
    """
    found = None
    for sparsity in sorted(sparsities, reverse=True):
        ms = measure(block_weight(shape, sparsity, block), image, (block,))
        if ms[str(block)] >= ms["dense"]:
            break
        found = sparsity
    return found


def block_weight(shape: tuple[int, int], sparsity: float, block: int, seed: int = 0) -> Tensor:
    """A random weight (out, in, 1, 1) whose zeros come in blocks of output channels, to within one block of exact."""
    generator = torch.Generator().manual_seed(seed)
    out, width = shape
    units = -(-out // block) * width
    keep = torch.zeros(units)
    keep[torch.randperm(units, generator=generator)[round(sparsity * units) :]] = 1.0
    mask = keep.view(-1, width).repeat_interleave(block, 0)[:out]
    return (torch.randn(shape, generator=generator) * mask)[:, :, None, None]
