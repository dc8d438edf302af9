"""Weights of any stored type in row streams, for few tokens."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.ops.native import LEVELS, KernelInfo

MOST_TOKENS = 16
WIDEST_INDEX = 65536  # inputs that 16 bits name


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """By density: dense, bit masks, fixed counts where the weight is N:M, columns where it is very sparse."""
    if tokens > MOST_TOKENS:
        return []
    density = int(weight.count_nonzero()) / max(1, weight.numel())
    formats = []
    if density <= 0.55 and is_nm(weight, density):
        formats.append("fixed")
    if density <= 0.9:
        formats.append("bitmask")
    if density >= 0.7:
        formats.append("dense")
    if density <= 0.25 and weight.shape[1] <= WIDEST_INDEX:
        formats.append("index")
    return [name for wanted in formats for name in best_of(kernels, wanted)]


def best_of(kernels: Sequence[KernelInfo], wanted: str) -> list[str]:
    """The kernel of a format (the third word of its name) with the most capable instruction set, if there is one."""
    fitting = [k for k in kernels if k.name.split("-")[2] == wanted]
    return [max(fitting, key=lambda k: LEVELS.index(k.isa)).name] if fitting else []


def is_nm(weight: Tensor, density: float) -> bool:
    """Whether groups of 4, 8 or 16 inputs hold equal numbers, nearly: then counting them at run time is for nothing."""
    for m in (4, 8, 16):
        if weight.numel() and weight.shape[1] % m == 0:
            fullest = int(weight.reshape(-1, m).count_nonzero(1).max())
            if fullest < m and fullest / m <= 1.05 * density:
                return True
    return False
