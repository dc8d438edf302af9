"""What a pickle says, without doing any of it.

`torch.save` writes a pickle: a small program that builds objects. Here the few instructions that it uses are followed
with inert records in place of every object: nothing is imported, nothing is called, and no number in the program makes
anything large. Instructions that torch.save does not write are refused.
"""

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rarefy.core.errors import FileError

LARGEST = 8 * 2**20
"""Bytes of a program."""
LONGEST = 250_000
"""Instructions: some seven thousand tensors, and half a second."""


@dataclass(frozen=True)
class Name:
    """Something that the program would import."""

    module: str
    name: str


@dataclass(eq=False)
class Call:
    """Something that it would make: what, from which arguments, and the entries that it would get as a dict or list."""

    what: Any
    args: Any
    entries: dict[Any, Any] = field(default_factory=dict)
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Persistent:
    """A reference to something outside, such as a storage."""

    said: Any


_ALONE = "save the weights alone, as safetensors"
_MARK = object()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "LONG", "FLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "SHORT_BINSTRING", "BINSTRING"),
    }
)
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def follow(program: bytes) -> Any:
    """What the program would give, of dicts, lists, tuples, plain values, `Name`, `Call` and `Persistent`.

    Raises FileError for what is no such program.
    """
    if len(program) > LARGEST:
        raise FileError(
            f"its pickle has {len(program)} bytes (limit {LARGEST}); save the weights alone, as safetensors"
        )
    try:
        return _Machine().run(pickletools.genops(program))
    except FileError:
        raise
    except Exception as error:  # a program of nonsense: stack empty, unhashable key, wrong length ...
        raise FileError(f"its pickle makes no sense ({type(error).__name__}: {error}); get the file again") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, instructions: Iterator[tuple[Any, Any, int | None]]) -> Any:
        for count, (instruction, argument, _) in enumerate(instructions):
            name = instruction.name
            if count > LONGEST:
                raise FileError(
                    f"its pickle has more than {LONGEST} instructions; save the weights alone, as safetensors"
                )
            if name == "STOP":
                return self.stack.pop()
            self.step(name, argument)
        raise ValueError("it has no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(stack) < count:
                raise ValueError("the stack is empty")
            stack[-count:] = [tuple(stack[-count:])]
        elif name in _STEPS:
            _STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise FileError(f"its pickle has the instruction {name}, which torch.save does not write; not followed")

    def marked(self) -> list[Any]:
        """What lies above the last mark, taken off the stack with it."""
        place = len(self.stack) - 1 - next(i for i, item in enumerate(reversed(self.stack)) if item is _MARK)
        found = self.stack[place + 1 :]
        del self.stack[place:]
        return found


def _put(machine: _Machine, argument: Any) -> None:
    machine.memo[len(machine.memo) if argument is None else argument] = machine.stack[-1]


def _named(machine: _Machine, argument: Any) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(Name(module, name))


def _stack_named(machine: _Machine, argument: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Name(str(module), str(name)))


def _call(machine: _Machine, argument: Any) -> None:
    args, what = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Call(what, args))


def _build(machine: _Machine, argument: Any) -> None:
    machine.stack.pop()  # what an object would keep beside its entries, such as the versions of modules


def _set(machine: _Machine, pairs: list[Any]) -> None:
    target = machine.stack[-1]
    entries = target.entries if isinstance(target, Call) else target
    if not isinstance(entries, dict) or len(pairs) % 2:
        raise ValueError("entries are set in what has none")
    if not all(isinstance(key, str | int | float | None) for key in pairs[::2]):
        raise ValueError("a key is no plain value")  # hashing tuples nested by the thousand would end the process
    entries.update(zip(pairs[::2], pairs[1::2], strict=True))


def _extend(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    held = target.items if isinstance(target, Call) else target
    if not isinstance(held, list):
        raise ValueError("items are added to what is no list")
    held.extend(items)


_STEPS = {
    "MARK": lambda m, _: m.stack.append(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "BINPUT": _put,
    "LONG_BINPUT": _put,
    "MEMOIZE": _put,
    "PUT": _put,
    "BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "LONG_BINGET": lambda m, a: m.stack.append(m.memo[a]),
    "GET": lambda m, a: m.stack.append(m.memo[a]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.marked())),
    "LIST": lambda m, _: m.stack.append(m.marked()),
    "GLOBAL": _named,
    "STACK_GLOBAL": _stack_named,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "BUILD": _build,
    "BINPERSID": lambda m, _: m.stack.append(Persistent(m.stack.pop())),
    "SETITEM": lambda m, _: _set(m, [*reversed((m.stack.pop(), m.stack.pop()))]),
    "SETITEMS": lambda m, _: _set(m, m.marked()),
    "APPEND": lambda m, _: _extend(m, [m.stack.pop()]),
    "APPENDS": lambda m, _: _extend(m, m.marked()),
    "ADDITEMS": lambda m, _: _extend(m, m.marked()),
}
