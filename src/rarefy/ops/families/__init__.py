"""Which kernels are worth timing: one file a family of native kernels, each with one function

    worth(kernels, weight, tokens) -> names, likely best first

where `kernels` are those of the family that this process may use with the stored and computed types asked for, `weight`
is (out, in) (integers where the stored type is), and `tokens` the rows of the input. No name: none is worth it.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from rarefy.ops.families import (
    block8,
    columns,
    dense8,
    dense16,
    dense32,
    expand8,
    expand16,
    expand32,
    fanin,
    lookup,
    matvec,
    matvec4,
    neurons,
    nmg,
    spmm,
    spmv,
)
from rarefy.ops.native import LEVELS, KernelInfo

Worth = Callable[[Sequence[KernelInfo], Tensor, int], list[str]]

FAMILIES: dict[str, Worth] = {  # by `KernelInfo.op`; the order settles which family is named first
    "spmv": spmv.worth,
    "matvec": matvec.worth,
    "matvec4": matvec4.worth,
    "fanin": fanin.worth,
    "lookup": lookup.worth,
    "nmg": nmg.worth,
    "spmm": spmm.worth,
    "block8": block8.worth,
    "dense8": dense8.worth,
    "expand8": expand8.worth,
    "dense16": dense16.worth,
    "expand16": expand16.worth,
    "dense32": dense32.worth,
    "expand32": expand32.worth,
    "columns": columns.worth,
    "neurons": neurons.worth,
}

# Which scales the kernels of a family take, where not all: asked with the inputs and the scales of a row.
SCALES: dict[str, Callable[[int, int], bool]] = {
    "matvec": lambda width, groups: groups == 1,
    "fanin": lambda width, groups: groups == 1,
    "lookup": lambda width, groups: groups == 1,
    "nmg": lambda width, groups: groups == 1,
    "matvec4": matvec4.takes_scales,
    "columns": columns.takes_scales,
    "neurons": columns.takes_scales,
    "dense8": dense8.takes_scales,
    "expand8": dense8.takes_scales,
}


def takes_scales(op: str, width: int, groups: int) -> bool:
    """Whether kernels of the family `op` can hold `groups` scales for the `width` inputs of a row."""
    return op not in SCALES or SCALES[op](width, groups)


def best_isa(kernels: Sequence[KernelInfo]) -> list[KernelInfo]:
    """Those of the most capable instruction set among `kernels`; tiles (amx) do not replace vectors for few tokens."""
    tiles = [k for k in kernels if k.isa == "amx"]
    vectors = [k for k in kernels if k.isa != "amx"]
    levels = [LEVELS.index(k.isa) for k in vectors]
    return tiles + [k for k in vectors if LEVELS.index(k.isa) == max(levels)]
