"""The choices of a whole model: of every layer, of what turns its basis and of what it foresees by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from rarefy.engine.decoder.choose import Chooser, Chosen
from rarefy.engine.decoder.choose_selecting import Seen
from rarefy.engine.decoder.structure import Foresight, Layer, Merged, Structure
from rarefy.ops.decoder import Foresight as NativeForesight


@dataclass(frozen=True, eq=False)
class ChosenForesight:
    """The choices for a predictor's layers."""

    foresight: Foresight
    net: tuple[Chosen, ...]

    def native(self) -> NativeForesight:
        choose, net = self.foresight.choose, tuple(one.native() for one in self.net)
        return NativeForesight(net, choose.kept, choose.spread, self.foresight.slot, choose.full)


@dataclass(frozen=True, eq=False)
class ChosenLayer:
    """The choices of one layer of the model."""

    qkv: tuple[Chosen, ...]
    out: Chosen
    up: tuple[Chosen, ...]
    down: Chosen
    turn: Chosen | None = None
    mlp_turn: Chosen | None = None
    attention_foresights: tuple[ChosenForesight, ...] = ()
    mlp_foresights: tuple[ChosenForesight, ...] = ()

    def all(self) -> tuple[Chosen, ...]:
        turns = [one for one in (self.turn, self.mlp_turn) if one is not None]
        nets = [one for by in (*self.attention_foresights, *self.mlp_foresights) for one in by.net]
        return (*self.qkv, self.out, *self.up, self.down, *turns, *nets)


@dataclass(frozen=True, eq=False)
class Plan:
    """The choices of the whole model."""

    layers: tuple[ChosenLayer, ...]
    head: Chosen
    turn: Chosen | None = None

    def all(self) -> list[Chosen]:
        last = [self.head] if self.turn is None else [self.turn, self.head]
        return [chosen for layer in self.layers for chosen in layer.all()] + last

    def is_native(self, tokens: int) -> bool:
        """True where every layer is packed for so many tokens, so that the native step can run them."""
        return all(chosen.is_native(tokens) for layer in self.layers for chosen in layer.all())


def plan_of(structure: Structure, chooser: Chooser, samples: Mapping[str, Tensor] = MappingProxyType({})) -> Plan:
    """Choices for every layer of a structure, the head among them.

    samples: rows that layers see behind selectors, by the layer's name.
    """

    turning = chooser.finer()

    def turned(merged: Merged | None) -> Chosen | None:
        return None if merged is None else turning.choose(merged)

    def chosen(merged: Merged) -> Chosen:
        sample = samples.get(merged.name)
        return chooser.choose(merged, None if sample is None else Seen(sample))

    def foreseen(every: Sequence[Foresight]) -> tuple[ChosenForesight, ...]:
        return tuple(ChosenForesight(by, tuple(map(turning.choose, by.net))) for by in every)

    shares: dict[int, float] = {}  # of the features that a mask keeps, by its slot

    def layer_of(layer: Layer) -> ChosenLayer:
        every = (*layer.attention_foresights, *layer.mlp_foresights)
        shares.update({by.slot: by.share for by in every})
        slot = None if layer.hidden_select is None else layer.hidden_select.slot
        seen = _seen_rows(layer, samples.get(layer.down.name), None if slot is None else shares.get(slot))
        ups = [chooser.choose(up, rows) if rows else chosen(up) for up, rows in zip(layer.up, seen, strict=True)]
        return ChosenLayer(
            tuple(map(chosen, layer.qkv)),
            chosen(layer.out),
            tuple(ups),
            chosen(layer.down),
            turned(layer.turn),
            turned(layer.mlp_turn),
            foreseen(layer.attention_foresights),
            foreseen(layer.mlp_foresights),
        )

    return Plan(tuple(map(layer_of, structure.layers)), chosen(structure.head), turned(structure.turn))


def _seen_rows(layer: Layer, down: Tensor | None, share: float | None) -> list[Seen | None]:
    """Which rows of gate and up are computed where neurons are selected; None: all, as far as is known.

    down: what the last layer sees, which says it of up; share: of the neurons, where it is known before the gate.
    """
    seen: list[Seen | None] = [None] * len(layer.up)
    if layer.hidden is None or down is None:
        return seen
    if layer.gated and layer.up[1].rest is None:
        seen[1] = Seen(down, rows=True)
    if share is not None and layer.up[0].rest is None:
        random = torch.rand(down.shape, generator=torch.Generator().manual_seed(0))
        seen[0] = Seen((random < share).float(), rows=True)
    return seen


def laid_out(structure: Structure, chosen: Callable[[Merged], Chosen]) -> Plan:
    """The plan of a plain structure from what each layer runs with."""

    def layer_of(layer: Layer) -> ChosenLayer:
        return ChosenLayer(
            tuple(map(chosen, layer.qkv)), chosen(layer.out), tuple(map(chosen, layer.up)), chosen(layer.down)
        )

    return Plan(tuple(map(layer_of, structure.layers)), chosen(structure.head))
