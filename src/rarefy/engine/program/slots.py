"""Which buffers of a program may share memory: those that are not alive together."""

from collections.abc import Mapping, Sequence

from rarefy.engine.program.values import Buffer


def slots_of(steps: Sequence[Sequence[Buffer]], hints: Mapping[str, int]) -> dict[Buffer, int]:
    """A slot for each buffer; steps: the buffers that each step names, in order. Sizes come with the call, so of the
    free slots the one nearest in size at the traced sizes is taken (`hints`: symbols to numbers)."""
    last = {buffer: at for at, buffers in enumerate(steps) for buffer in buffers}
    slots: dict[Buffer, int] = {}
    sizes: list[int] = []  # of each slot
    free: list[int] = []
    for at, buffers in enumerate(steps):
        for buffer in buffers:
            if buffer in slots:
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
        free += [slots[buffer] for buffer in dict.fromkeys(buffers) if last[buffer] == at]
    return slots
