"""What each step of a program has to move and to compute, as sizes of a call."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rarefy.engine.program.sizes import Size, product
from rarefy.engine.program.values import ABSENT
from rarefy.ops import PackedWeight

_FLOAT = Size(4)


@dataclass(frozen=True)
class StepDemand:
    """kernel: of a packed weight, else ""; flops and moved (bytes): None where they are not told. Sums of sizes."""

    kernel: str = ""
    flops: tuple[Size, ...] | None = None
    moved: tuple[Size, ...] | None = None

    def at(self, values: Mapping[str, int]) -> tuple[float | None, float | None]:
        """(flops, bytes) of a call."""
        sums = [
            None if sizes is None else float(sum(s.at(values) for s in sizes)) for sizes in (self.flops, self.moved)
        ]
        return sums[0], sums[1]


def demands_of(steps: Iterable[tuple[str, tuple[Any, ...]]], kept: Sequence[Any]) -> tuple[StepDemand, ...]:
    """One a step, from its arguments. kept: what the program points into, the packed weights among it."""
    packed = {id(weight.layout): weight for weight in kept if isinstance(weight, PackedWeight)}
    return tuple(_demand(method, arguments, packed) for method, arguments in steps)


def _demand(method: str, arguments: tuple[Any, ...], packed: Mapping[int, PackedWeight]) -> StepDemand:
    match method:
        case "linear" | "linear8":
            return _linear(method, arguments, packed[id(arguments[0])])
        case "linear_pair":
            return _pair(*(_linear("linear", one, packed[id(one[0])]) for one in arguments))
        case "norm":
            return _norm(arguments)
        case "attention":
            return _attention(arguments)
    return StepDemand(moved=_moved(method, arguments))


def _moved(method: str, arguments: tuple[Any, ...]) -> tuple[Size, ...] | None:
    """Bytes that steps without products read and write."""
    match method:
        case "quantise":
            return (arguments[1] * Size(5 * arguments[2]),)
        case "embed":
            return (arguments[1] * Size(4 * arguments[2] * (1 + len(arguments[0]))),)
        case "activate":
            return (arguments[1] * Size(8),)
        case "combine":
            return arguments[3] * Size(8), arguments[4] * _FLOAT
        case "copy":
            return (product(arguments[1]) * Size(8),)
    return None


def _linear(method: str, arguments: tuple[Any, ...], weight: PackedWeight) -> StepDemand:
    _, _, rows, _, _, y, *beside = arguments
    out, width = weight.shape
    read = rows * Size(width if method == "linear8" else 4 * width)
    written = [rows * Size(4 * out)] if y is not ABSENT else []
    if beside and beside[0][0] is not ABSENT:
        written.append(rows * Size(out))
    return StepDemand(weight.kernel, (rows * Size(2 * weight.nnz),), (Size(weight.nbytes), read, *written))


def _pair(first: StepDemand, second: StepDemand) -> StepDemand:
    """What is between the two is not moved."""
    assert first.flops and second.flops and first.moved and second.moved
    (weight, x, _), (next_weight, _, y) = first.moved, second.moved
    return StepDemand(f"{first.kernel} + {second.kernel}", first.flops + second.flops, (weight, x, next_weight, y))


def _norm(arguments: tuple[Any, ...]) -> StepDemand:
    _, residual, _, rows, features, _, _, _, total, _, _ = arguments
    passes = 2 + (residual is not ABSENT) + (total is not ABSENT)
    return StepDemand(moved=(rows * Size(4 * features * passes),))


def _attention(arguments: tuple[Any, ...]) -> StepDemand:
    """Both products; queries, keys, values and the result once."""
    _, _, _, (batch, heads, queries, keys), depth, *_ = arguments
    one = batch * heads * queries * keys * Size(4 * depth)
    rows = batch * heads * _FLOAT * Size(2 * depth)
    return StepDemand(flops=(one,), moved=(rows * queries, rows * keys))
