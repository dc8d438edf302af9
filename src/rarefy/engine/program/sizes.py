"""Sizes that the tracer left open: a number times some symbols."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import sympy
import torch


@dataclass(frozen=True)
class Size:
    """constant * the product of `symbols` (names, sorted, repeated for powers)."""

    constant: int
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: "Size") -> "Size":
        return Size(self.constant * other.constant, tuple(sorted(self.symbols + other.symbols)))

    @property
    def is_symbol(self) -> bool:
        return self.constant == 1 and len(self.symbols) == 1

    def at(self, values: Mapping[str, int]) -> int:
        product = self.constant
        for name in self.symbols:
            product *= values[name]
        return product


ONE, ZERO = Size(1), Size(0)


def product(sizes: Iterable[Size]) -> Size:
    out = ONE
    for size in sizes:
        out = out * size
    return out


def size_of(value: object) -> Size | None:
    """A traced size (a number, or the tracer's symbol) as a product; None for whatever is no product."""
    if isinstance(value, int):
        return Size(value)
    if not isinstance(value, torch.SymInt):
        return None
    return _of_expression(value.node.expr)


def _of_expression(expression: sympy.Expr) -> Size | None:
    constant, symbols = 1, []
    for base, power in expression.as_powers_dict().items():
        if type(base).__name__ == "Max" and len(base.args) == 2 and base.args[0] == 1:
            base = base.args[1]  # strides of tensors that might be empty: sizes are positive here
        if base.is_Integer and power.is_Integer and power > 0:
            constant *= int(base) ** int(power)
        elif base.is_Symbol and power.is_Integer and power > 0:
            symbols += [str(base)] * int(power)
        else:
            return None
    return Size(constant, tuple(sorted(symbols)))


def sizes_of(values: Iterable[object]) -> tuple[Size, ...] | None:
    """All of them, or None if one is no product."""
    sizes = [size_of(value) for value in values]
    return None if any(size is None for size in sizes) else tuple(s for s in sizes if s is not None)


def row_major(sizes: tuple[Size, ...]) -> tuple[Size, ...]:
    """The strides of a contiguous tensor."""
    return tuple(product(sizes[axis + 1 :]) for axis in range(len(sizes)))


def is_row_major(sizes: tuple[Size, ...], strides: tuple[Size, ...]) -> bool:
    """Whether entries lie one after the other; the stride of an axis of one entry says nothing."""
    pairs = zip(sizes, strides, row_major(sizes), strict=True)
    return all(size == ONE or got == want for size, got, want in pairs)


def hint(value: object) -> int:
    """A size of the traced example."""
    return int(value.node.hint) if isinstance(value, torch.SymInt) else int(value)  # type: ignore[call-overload]
