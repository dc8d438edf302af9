"""Which convolution kernels there are, and which are worth timing for a weight."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.ops import native
from rarefy.ops.conv_reference import Window

REFERENCE = "reference"
_PLAIN = Window()


@dataclass(frozen=True)
class ConvKernel:
    """One compiled convolution kernel.

    rows: output channels in a group; pixels: vectors of output pixels in a tile; together: the channels of a group
    share their inputs (blocks of 1 x `rows` weights, or a dense weight).
    """

    name: str
    isa: str
    rows: int
    pixels: int
    together: bool


@dataclass(frozen=True)
class WinogradKernel:
    """One compiled kernel of minimal filtering (Winograd 1980; Lavin and Gray 2016, arXiv:1509.09308, section 4.1).

    outputs: pixels of a tile along each axis; taps: weights along each axis, of a stride's phase.
    """

    name: str
    isa: str
    outputs: int
    taps: int


def kernels() -> list[ConvKernel]:
    """Every compiled convolution kernel that this process may use."""
    module = native.module()
    return [] if module is None else [ConvKernel(*kernel) for kernel in _allowed(module.conv_kernels())]


def direct_kernels() -> list[ConvKernel]:
    """Those that this process may use for images across the lanes and that read their inputs where they lie."""
    module = native.module()
    return [] if module is None else [ConvKernel(*kernel) for kernel in _allowed(module.direct_kernels())]


def winograd_kernels() -> list[WinogradKernel]:
    """Those of minimal filtering that this process may use, for dense weights and images across the lanes."""
    module = native.module()
    return [] if module is None else [WinogradKernel(*kernel) for kernel in _allowed(module.winograd_kernels())]


def _allowed(listed: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Those whose instruction set, the second field, this process may use."""
    module, levels = native.module(), native.LEVELS
    assert module is not None  # it listed them
    allowed = levels.index(module.isa())
    return [kernel for kernel in listed if levels.index(kernel[1]) <= allowed]


def is_direct_kernel(kernel: str) -> bool:
    """Whether a kernel of this name reads its inputs in place (and its weight is not turned)."""
    return kernel.startswith("direct-")


def is_winograd_kernel(kernel: str) -> bool:
    """Whether a kernel of this name computes by minimal filtering (and its weight is not turned)."""
    return kernel.startswith("winograd-")


def is_turned(kernel: str) -> bool:
    """Whether a kernel of this name wants rows for columns where images lie across the lanes."""
    return not is_direct_kernel(kernel) and not is_winograd_kernel(kernel)


def best_isa() -> str:
    """The widest instruction set of the compiled kernels that this process may use."""
    return max((kernel.isa for kernel in kernels()), key=native.LEVELS.index, default=native.LEVELS[0])


def kernels_across() -> list[str]:
    """Names of the kernels for any window whose vectors have as many lanes as `conv_across` puts images across."""
    best = best_isa()
    return [kernel.name for kernel in [*kernels(), *direct_kernels()] if kernel.isa == best]


def filters_across(shape: Sequence[int], window: Window) -> list[str]:
    """Names of the kernels of minimal filtering, with as many lanes, that take a weight (out, in / groups, kh, kw)."""
    best = best_isa()
    taps = {-(-size // stride) for size, stride in zip(shape[2:], window.stride, strict=True)}
    if window.groups != 1 or window.dilation != (1, 1):
        return []
    return [kernel.name for kernel in winograd_kernels() if kernel.isa == best and taps == {kernel.taps}]


def candidates_across(weight: Tensor, window: Window = _PLAIN) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in / groups, kh, kw) and images across the lanes.

    What `conv_candidates` says; for a sparse weight the kernels that read their inputs in place, for a dense one those
    of minimal filtering.
    """
    best, dense = best_isa(), is_dense(weight)
    direct = [k.name for k in direct_kernels() if k.isa == best and (not dense or window.groups > 1)]
    return conv_candidates(weight, window.groups) + direct + (filters_across(weight.shape, window) if dense else [])


def is_dense(weight: Tensor) -> bool:
    """Whether so few weights are zero that leaving them out would cost more than it saves."""
    return float(weight.count_nonzero()) > 0.6 * weight.numel()


def conv_candidates(weight: Tensor, groups: int = 1) -> list[str]:
    """Names of the kernels worth timing for this weight (out, in / groups, kh, kw), likely best first.

    A kernel that works on more output channels at a time than a group has would compute nothing in some. Blocks of
    output channels are worth it where filling the blocks up costs little: for a weight pruned in such blocks, and for
    a dense one. Never empty: without the native module it is ["reference"].
    """
    usable = kernels()
    if not usable:
        return [REFERENCE]
    best = best_isa()
    most = max(1, weight.shape[0] // groups)
    usable = [kernel for kernel in usable if kernel.isa == best and kernel.rows <= most]
    apart = [k.name for k in usable if not k.together]
    together = [k.name for k in usable if k.together and fill(weight, k.rows) > 0.6]
    return together if is_dense(weight) and together else apart + together


def fill(weight: Tensor, rows: int) -> float:
    """The share of non-zeros among what blocks of 1 x `rows` output channels of a weight (out, ...) would store."""
    if weight.numel() == 0:
        return 1.0
    blocks = torch.zeros(-(-weight.shape[0] // rows) * rows, weight[0].numel())
    blocks[: weight.shape[0]] = weight.reshape(weight.shape[0], -1) != 0
    kept = blocks.view(-1, rows, blocks.shape[1]).amax(1).sum() * rows
    return float(blocks.sum() / kept.clamp_min(1))
