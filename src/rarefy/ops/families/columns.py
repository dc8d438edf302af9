"""Weights by input columns, of which only those with an input that is not 0 are read: for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import LEVELS, KernelInfo

_SPARSE = 0.8  # density of a weight up to which a bit mask is worth its bits


def takes_scales(width: int, groups: int) -> bool:
    """One scale a row; of 4-bit weights also one for every 16 inputs or a multiple of them."""
    return groups == 1 or (width // groups) % 16 == 0


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """None: what they save depends on the inputs, so they are timed only where inputs are selected (`selective`)."""
    return []


def selective(kernels: Sequence[KernelInfo], weight: Tensor) -> list[str]:
    """Of each format the one of the best instruction set: whole columns, and without the zeros where there are many.

    Those that round their inputs come last: dot products of bytes outrun the skipping of single zeros.
    """
    sparse = int(weight.count_nonzero()) <= _SPARSE * weight.numel()
    best: dict[str, KernelInfo] = {}
    for kernel in sorted(kernels, key=lambda k: LEVELS.index(k.isa)):
        best[kernel.name.split("-")[2] if kernel.op == "columns" else ""] = kernel
    found = sorted((k for k in best.values() if sparse or "-bitmask-" not in k.name), key=_likely)
    return [k.name for k in found]


def _likely(kernel: KernelInfo) -> tuple[bool, bool]:
    return kernel.activations == "int8", "-bitmask-" in kernel.name
