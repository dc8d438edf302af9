"""How nodes become steps of a program: one entry an operation, collected from the files beside this one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from rarefy.engine.program.builder import Builder
from rarefy.engine.program.facts import Fact

Fits = Callable[[Node, Mapping[Node, Fact]], bool]
Emit = Callable[[Node, Builder], None]


@dataclass(frozen=True)
class Lowering:
    """fits: whether the program computes this node (types, strides, arguments); emit: adds its steps and its value.

    view: it only names memory that a node before it has filled. light: alone not worth a call into native code.
    """

    fits: Fits
    emit: Emit
    view: bool = False
    light: bool = False


LOWERINGS: dict[Any, Lowering] = {}


def lowers(*targets: Any, fits: Fits, view: bool = False, light: bool = False) -> Callable[[Emit], Emit]:
    """Registers a function as what emits the steps of nodes with these targets."""

    def put(emit: Emit) -> Emit:
        LOWERINGS.update(dict.fromkeys(targets, Lowering(fits, emit, view, light)))
        return emit

    return put


def lowering_of(node: Node) -> Lowering | None:
    """The entry for a node, whether it fits or not."""
    return LOWERINGS.get(node.target) if node.op == "call_function" else None
