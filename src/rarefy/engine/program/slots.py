"""Which buffers of a program may share memory: those that are not alive together."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rarefy.engine.program.values import Buffer

_NOTHING: Mapping[Buffer, Buffer] = MappingProxyType({})


def slots_of(
    steps: Sequence[Sequence[Buffer]], hints: Mapping[str, int], over: Mapping[Buffer, Buffer] = _NOTHING
) -> dict[Buffer, int]:
    """A slot for each buffer; steps: the buffers that each step names, in order. Sizes come with the call, so of the
    free slots the one nearest in size at the traced sizes is taken (`hints`: symbols to numbers).

    over: a buffer that its first step may write over another one of the same size, if nothing later reads that: what a
    core has just read is in its cache."""
    last = {buffer: at for at, buffers in enumerate(steps) for buffer in buffers}
    slots: dict[Buffer, int] = {}
    sizes: list[int] = []  # of each slot
    free: list[int] = []
    kept: set[Buffer] = set()  # whose slots have gone to another
    for at, buffers in enumerate(steps):
        for buffer in buffers:
            if buffer in slots:
                continue
            old = over.get(buffer)
            if old in slots and last[old] == at and old.bytes == buffer.bytes:
                slots[buffer] = slots[old]
                kept.add(old)
                continue
            size = buffer.bytes.at(hints)
            if free:
                slot = min(free, key=lambda s: abs(sizes[s] - size))
                free.remove(slot)
                sizes[slot] = max(sizes[slot], size)
            else:
                slot = len(sizes)
                sizes.append(size)
            slots[buffer] = slot
        free += [slots[buffer] for buffer in dict.fromkeys(buffers) if last[buffer] == at and buffer not in kept]
    return slots
