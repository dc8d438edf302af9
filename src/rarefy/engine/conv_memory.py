"""Where the values between native calls lie in one block of memory: planned once, nothing is allocated later."""

from collections.abc import Sequence
from dataclasses import dataclass

from rarefy.ops.words import words_shape

LINE = 64  # bytes: what the kernels' vectors are aligned to


@dataclass(frozen=True)
class Form:
    """How images lie in memory. lanes: 1, side by side; more: so many in a vector; words: as bytes, four channels
    together, with `scale` (scale, zero), or with a scale for each image where it is None."""

    lanes: int = 1
    words: bool = False
    scale: tuple[float, int] | None = None


FLOATS = Form()


@dataclass
class Value:
    """One array. made, last: numbers of the calls that write it and that read it last; own: it lies in the block."""

    shape: tuple[int, ...]  # (images, or blocks of images across lanes; channels, height, width)
    form: Form
    own: bool
    made: int
    last: int

    @property
    def nbytes(self) -> int:
        size = 1 if self.form.words else 4 * self.form.lanes
        for n in words_shape(self.shape) if self.form.words else self.shape:
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
