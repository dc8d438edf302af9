"""Where activations may be selected: the feed-forward layers and the projections of a transformer, by their names."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from rarefy.core.errors import ModelError
from rarefy.selectors.matrix import is_linear

Part = Literal["q", "k", "v", "qkv", "o", "gate", "up", "down", "in"]


@dataclass(frozen=True, eq=False)
class FeedForward:
    """`down(act(gate(x)) * up(x))` ("gated") or `down(act(up(x)))` ("plain", gate is None).

    activation: the module, or the name of the function where the class calls a function.
    """

    name: str
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    activation: nn.Module | str
    kind: Literal["gated", "plain"]


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear layer of a block. part "in": the first layer of a plain feed-forward; block: its number, from 0.

    Where an encoder and a decoder both count from 0, their blocks are numbered through.
    """

    name: str
    module: nn.Module
    part: Part
    block: int


@dataclass(frozen=True)
class _Shape:
    """Paths below a module that together make a feed-forward: Llama, Mistral, Qwen; OPT; GPT-2; BERT, RoBERTa."""

    gate: str | None
    up: str
    down: str
    activation: str


_FEED_FORWARDS = (
    _Shape("gate_proj", "up_proj", "down_proj", "act_fn"),
    _Shape(None, "fc1", "fc2", "activation_fn"),
    _Shape(None, "c_fc", "c_proj", "act"),
    _Shape(None, "intermediate.dense", "output.dense", "intermediate.intermediate_act_fn"),
)
_ATTENTIONS: tuple[dict[str, Part], ...] = (
    {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o"},
    {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"},
    {"c_attn": "qkv", "c_proj": "o"},
    {"self.query": "q", "self.key": "k", "self.value": "v", "output.dense": "o"},
)
_LOOKED_FOR = "; ".join(", ".join(p for p in (s.gate, s.up, s.down, s.activation) if p) for s in _FEED_FORWARDS)


def _at(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _feed_forward(name: str, module: nn.Module) -> tuple[FeedForward, _Shape] | None:
    for shape in _FEED_FORWARDS:
        gate = _at(module, shape.gate) if shape.gate else None
        up, down, activation = (_at(module, path) for path in (shape.up, shape.down, shape.activation))
        if not (is_linear(up) and is_linear(down) and callable(activation)) or (shape.gate and not is_linear(gate)):
            continue
        kept = activation if isinstance(activation, nn.Module) else getattr(activation, "__name__", repr(activation))
        return FeedForward(name, gate, up, down, kept, "gated" if shape.gate else "plain"), shape
    return None


def _found(model: nn.Module) -> Iterator[tuple[FeedForward, _Shape]]:
    for name, module in model.named_modules():
        found = _feed_forward(name, module)
        if found is not None:
            yield found


def _require(model: nn.Module, found: object) -> None:
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules()})[:12]
        raise ModelError(
            f"{type(model).__name__}: no feed-forward layer is known; looked in every module for linear layers and "
            f"an activation of the names ({_LOOKED_FOR}), and found only {', '.join(kinds)}"
        )


def feed_forwards(model: nn.Module) -> tuple[FeedForward, ...]:
    """The feed-forward layers in the order of the modules.

    Raises ModelError that says what was looked for where there is none.
    """
    found = tuple(layer for layer, _ in _found(model))
    _require(model, found)
    return found


def block_of(name: str) -> int:
    """The number in a dotted name that counts the blocks: the first one, or 0."""
    numbers = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", name)
    return int(numbers[0]) if numbers else 0


def block_name(name: str) -> str:
    """The dotted name up to the number that counts the blocks: `model.layers.3` of `model.layers.3.mlp.up_proj`."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if first is None else ".".join(parts[: first + 1])


def _attention(name: str, module: nn.Module) -> list[Projection]:
    for parts in _ATTENTIONS:
        layers = {path: _at(module, path) for path in parts}
        if all(is_linear(layer) for layer in layers.values()):
            return [Projection(_join(name, p), layer, parts[p], block_of(name)) for p, layer in layers.items()]
    return []


def _join(name: str, path: str) -> str:
    return f"{name}.{path}" if name else path


def _parts(layer: FeedForward, shape: _Shape) -> list[Projection]:
    block = block_of(layer.name)
    up: Part = "up" if layer.kind == "gated" else "in"
    found = [Projection(_join(layer.name, shape.up), layer.up, up, block)]
    found.append(Projection(_join(layer.name, shape.down), layer.down, "down", block))
    if layer.gate is not None and shape.gate:
        found.insert(0, Projection(_join(layer.name, shape.gate), layer.gate, "gate", block))
    return found


def projections(model: nn.Module) -> tuple[Projection, ...]:
    """The linear layers of attention and feed-forward, block by block; attention first.

    Raises ModelError that says what was looked for where there is no feed-forward layer.
    """
    inner = [p for layer, shape in _found(model) for p in _parts(layer, shape)]
    _require(model, inner)
    outer = [p for name, module in model.named_modules() for p in _attention(name, module)]
    return tuple(sorted(_told_apart(outer + inner), key=lambda p: p.block))


def _told_apart(found: list[Projection]) -> list[Projection]:
    """The same, with one number a block where two stacks use the same numbers."""
    names = list(dict.fromkeys(block_name(p.name) for p in found))
    if len({block_of(name) for name in names}) == len(names):
        return found
    return [replace(p, block=names.index(block_name(p.name))) for p in found]
