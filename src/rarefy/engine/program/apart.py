"""Programs by parts of the batch: which may be, and a graph's whose are."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule

from rarefy.engine.program.lower_entries import COUNTING
from rarefy.engine.program.region import Region
from rarefy.engine.program.sizes import Size
from rarefy.engine.program.values import Part

_TOGETHER = (128, 256, 512)  # tokens that are tried to go through a program at a time, on each thread
Step = tuple[str, tuple[Any, ...]]
Sizes = Sequence[Size]
Pairs = Sequence[tuple[Size, Size]]


def batch_of(
    inputs: Sequence[Sizes], outputs: Sequence[tuple[Sizes, Sizes]], same: Pairs, steps: Iterable[Step]
) -> tuple[str, ...]:
    """The symbols that are the size of a batch whose entries never meet; none where there is no such batch.

    inputs: sizes; outputs: sizes and strides; same: sizes that a call must have equal. A batch is the first axis of
    every output and of whatever input has it; a part's rows are computed as the whole's, no attention runs along it.
    """
    if not outputs or not outputs[0][0] or not outputs[0][0][0].is_symbol:
        return ()
    names = _equals(outputs[0][0][0].symbols[0], same)
    first = [(sizes[0], (*sizes[1:], *strides)) for sizes, strides in outputs]
    first += [(sizes[0], tuple(sizes[1:])) for sizes in inputs if _names(sizes) & names]
    if not all(size.is_symbol and size.symbols[0] in names and not _names(rest) & names for size, rest in first):
        return ()
    others = [pair for pair in same if not all(size.is_symbol and size.symbols[0] in names for size in pair)]
    meet = any(_names(pair) & names for pair in others) or not all(_apart(*step, names) for step in steps)
    return () if meet else tuple(sorted(names))


def _equals(name: str, same: Pairs) -> set[str]:
    """The symbols that a call must have equal to one."""
    names, before = {name}, 0
    while before != len(names):
        before = len(names)
        for pair in same:
            both = {size.symbols[0] for size in pair if size.is_symbol}
            if len(both) == 2 and both & names:
                names |= both
    return names


def _names(sizes: Iterable[Size]) -> set[str]:
    return {name for size in sizes for name in size.symbols}


def _apart(method: str, arguments: tuple[Any, ...], names: set[str]) -> bool:
    """Whether a step computes each entry of a batch of this size by itself."""
    sizes, offsets = list(_sizes_in(arguments)), [part.offset for part in _parts_in(arguments)]
    if any(sum(name in names for name in size.symbols) > 1 for size in sizes) or _names(offsets) & names:
        return False
    if method == "attention":  # (batch, heads, queries, keys): only the first may be of the batch
        return not _names((*arguments[3][1:], *_sizes_in(arguments[2]))) & names
    if method == "copy":
        return not _names(arguments[2]) & names
    if method == "embed":  # positions count within an entry
        return not any(_names([table[4]]) & names for table in arguments[0] if table[2] == COUNTING)
    return True


def _sizes_in(arguments: Any) -> Iterable[Size]:
    if isinstance(arguments, Size):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _sizes_in(argument)


def _parts_in(arguments: Any) -> Iterable[Part]:
    if isinstance(arguments, Part):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from _parts_in(argument)


def in_parts(graph: GraphModule, apart: int) -> GraphModule | None:
    """A graph of the same parameters whose programs take so many entries of the batch at a time; None: none can."""
    parts = {name: m.in_parts(apart) for name, m in graph.named_modules() if isinstance(m, Region)}
    if not any(part is not None for part in parts.values()):
        return None
    twin = GraphModule(graph, copy.deepcopy(graph.graph))
    for name, part in parts.items():
        if part is not None:
            twin.set_submodule(name, part)
    return twin


def part_variants(graph: Any, batch: int, tokens: int) -> dict[str, GraphModule]:
    """The graph by parts of the batch, by name, for each size of a part that is worth timing: some for every thread.

    batch: entries of the example; tokens: that its layers see.
    """
    threads = torch.get_num_threads()
    most = batch // threads
    if tokens == 0 or most < 2:
        return {}
    sizes = sorted({min(most, max(1, round(wanted * batch / tokens))) for wanted in _TOGETHER} - {batch})
    parts = {f"graph, {n} at a time on each thread": in_parts(graph, n) for n in sizes}
    return {name: part for name, part in parts.items() if part is not None}
