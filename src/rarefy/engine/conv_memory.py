"""Where the values between native calls lie in one block of memory: planned once, nothing is allocated later."""

from collections.abc import Sequence
from dataclasses import dataclass

LINE = 64  # bytes: what the kernels' vectors are aligned to


@dataclass
class Value:
    """One array. made, last: numbers of the calls that write it and that read it last; own: it lies in the block."""

    shape: tuple[int, ...]  # (images, or blocks of images across lanes; channels, height, width)
    lanes: int  # 1: images side by side
    own: bool
    made: int
    last: int

    @property
    def nbytes(self) -> int:
        size = 4 * self.lanes
        for n in self.shape:
            size *= n
        return -(-size // LINE) * LINE


def place(values: Sequence[Value]) -> tuple[list[int | None], int]:
    """Offsets (None: not in the block) and the bytes of the block; values that live at the same time do not overlap.

    First fit in the order in which the values are made.
    """
    offsets: list[int | None] = [None] * len(values)
    for number in sorted((i for i, v in enumerate(values) if v.own), key=lambda i: values[i].made):
        value = values[number]
        alive = [i for i, at in enumerate(offsets) if at is not None and values[i].last >= value.made]
        at = 0
        for other in sorted(alive, key=lambda i: offsets[i] or 0):
            start = offsets[other] or 0
            if at + value.nbytes <= start:
                break
            at = max(at, start + values[other].nbytes)
        offsets[number] = at
    ends = [at + v.nbytes for at, v in zip(offsets, values, strict=True) if at is not None]
    return offsets, max(ends, default=0)
