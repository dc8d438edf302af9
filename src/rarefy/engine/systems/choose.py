"""The kernel of a family on this CPU."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rarefy.core.errors import EngineError
from rarefy.ops.conv_kernels import ConvKernel
from rarefy.ops.native import LEVELS, KernelInfo

K = TypeVar("K", KernelInfo, ConvKernel)


def best(where: str, kernels: Sequence[K], wanted: Callable[[K], bool]) -> K:
    """The wanted kernel with the most capable instruction set, the first where several have it."""
    fitting = [kernel for kernel in kernels if wanted(kernel)]
    if not fitting:
        raise EngineError(f"{where}: no native kernel of this kind may run here; see `rarefy doctor`, and RAREFY_ISA")
    return max(fitting, key=lambda kernel: LEVELS.index(kernel.isa))
