"""Which layouts each merged layer gets: one for a token or a few, and another for many only where it wins clearly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.engine.cache import TimingCache
from rarefy.engine.decoder.structure import Merged, Structure
from rarefy.engine.explain import LayerRow
from rarefy.engine.precision import Precision
from rarefy.engine.times import Times, TimeTable
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedWeight, available, candidates, pack
from rarefy.ops.decoder import Linear

_SECOND_LAYOUT = 1.25  # a second copy of a weight costs memory: it has to be so much faster than the first
_WALK_MS = 0.03  # what a dense layer costs beside its product: the step is then no native call, but goes through Python
_FEW = 8  # token counts up to here are always served natively, so that a step is one call


@dataclass(frozen=True, eq=False)
class Chosen:
    """The layouts of one merged layer: packed weights up to token counts, None = the dense layers in torch."""

    merged: Merged
    bias: Tensor | None
    steps: tuple[tuple[int, PackedWeight | None], ...]

    def at(self, tokens: int) -> PackedWeight | None:
        """The choice of the nearest measured count at or above `tokens` (the largest beyond the last)."""
        for limit, packed in self.steps:
            if tokens <= limit:
                return packed
        return self.steps[-1][1]

    def native(self) -> Linear:
        """The packed choices, for the native step."""
        packed = tuple((limit, weight) for limit, weight in self.steps if weight is not None)
        return Linear(packed, self.bias, self.merged.activation)

    @property
    def out_features(self) -> int:
        return self.merged.out_features

    @property
    def nbytes(self) -> int:
        return sum({id(p): p.nbytes for _, p in self.steps if p is not None}.values())


class Chooser:
    """Chooses for layers at token counts; those of one cell (`engine.cell`) are timed once a machine.

    measure: False chooses by the cost model alone.
    """

    def __init__(
        self, precision: Precision, counts: Sequence[int], *, measure: bool = True, cache: TimingCache | None = None
    ) -> None:
        self.precision, self.counts = precision, sorted(set(counts))
        self.rows: list[LayerRow] = []
        self._table = TimeTable(self._time if measure else None, cache or TimingCache())

    def choose(self, merged: Merged) -> Chosen:
        """Packs the layer for what is fastest at each count. Raises EngineError where no kernel has the types."""
        weight = merged.weight()
        if not available():
            return Chosen(merged, merged.bias(), ((self.counts[-1], None),))
        sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
        source, names = self.precision.stored(weight), self._names(merged, weight, sparsity)
        packs = {name: pack(source, name) for name in dict.fromkeys(names.values()) if name != "dense"}
        return Chosen(merged, merged.bias(), tuple((count, packs.get(name)) for count, name in names.items()))

    def _names(self, merged: Merged, weight: Tensor, sparsity: float) -> dict[int, str]:
        """The choice at each count, with few different layouts: the first count takes the fastest kernel."""
        chosen: dict[int, str] = {}
        for count in self.counts:
            found = self._table.times(weight, None, count, self.precision.weights, self.precision.activations)
            own = candidates(weight, count, self.precision.weights, self.precision.activations)
            at = {name: found.ms.get(name, float("inf")) for name in own}
            if self.precision.exact and count > _FEW:
                at["dense"] = found.ms["dense"] + _WALK_MS
            chosen[count] = self._best(at, list(chosen.values()), count)
            self._explain(merged, weight, sparsity, count, chosen[count], found)
        return chosen

    def _best(self, at: dict[str, float], before: list[str], count: int) -> str:
        """The fastest, or what is there already where that is nearly as fast (torch's dense layers always are)."""
        if not at and not before:
            raise EngineError(
                f"compile: no kernel has {self.precision} for {count} tokens on this CPU; choose other types"
            )
        if not at:
            return before[-1]
        best = min(at, key=lambda name: at[name])
        cheap = [name for name in at if name == "dense" or name in before]
        near = min(cheap, key=lambda name: at[name], default=best)
        return near if at[near] <= _SECOND_LAYOUT * at[best] else best

    def _time(self, weight: Tensor, bias: Tensor | None, tokens: int, names: Sequence[str]) -> dict[str, float]:
        """Median milliseconds of the dense layer and of each kernel, in interleaved rounds."""
        x = torch.randn(tokens, weight.shape[1], generator=torch.Generator().manual_seed(0))
        source = self.precision.stored(weight)
        calls: dict[str, Callable[[], Any]] = {"dense": partial(F.linear, x, weight)}
        for name in names:
            calls[name] = partial(pack(source, name).multiply, x, bias, "none")
        with torch.inference_mode():
            rounds = interleaved(calls, rounds=7, warmup=1, seconds=0.4)
        return {name: rounds.median(name) for name in calls}

    def _explain(self, merged: Merged, weight: Tensor, sparsity: float, count: int, name: str, found: Times) -> None:
        packed = {kernel: ms for kernel, ms in found.ms.items() if kernel != "dense"}
        dense, ms = found.ms.get("dense"), found.ms.get(name)
        best = min(packed, key=lambda kernel: packed[kernel], default=name)
        if ms is None:
            reason = "the layout for fewer tokens: no kernel of these types is made for so many"
        elif dense is not None and name != "dense":
            reason = f"{dense / ms:.2f}x as fast as dense" + (
                "" if name == best else f"; {best} is no second layout worth"
            )
        else:
            reason = "dense is as fast or faster"
        label = merged.name if len(merged.parts) == 1 else f"{merged.name} and {len(merged.parts) - 1} more"
        shape = (weight.shape[0], weight.shape[1])
        row = LayerRow(label, shape, sparsity, count, name, dense, packed.get(best), reason, packed, found.origin)
        self.rows.append(row)


@dataclass(frozen=True, eq=False)
class ChosenLayer:
    """The choices of one layer of the model."""

    qkv: Chosen
    out: Chosen
    up: Chosen
    down: Chosen

    def all(self) -> tuple[Chosen, ...]:
        return self.qkv, self.out, self.up, self.down


@dataclass(frozen=True, eq=False)
class Plan:
    """The choices of the whole model."""

    layers: tuple[ChosenLayer, ...]
    head: Chosen

    def all(self) -> list[Chosen]:
        return [chosen for layer in self.layers for chosen in layer.all()] + [self.head]

    def is_native(self, tokens: int) -> bool:
        """True where every layer is packed for so many tokens, so that the native step can run them."""
        return all(chosen.at(tokens) is not None for layer in self.layers for chosen in layer.all())


def plan_of(structure: Structure, chooser: Chooser) -> Plan:
    """Choices for every layer of a structure, the head among them."""
    layers = tuple(
        ChosenLayer(*(chooser.choose(merged) for merged in (layer.qkv, layer.out, layer.up, layer.down)))
        for layer in structure.layers
    )
    return Plan(layers, chooser.choose(structure.head))


def linear(chosen: Chosen, x: Tensor) -> Tensor:
    """act(x W^T + bias) of (..., in) by what was chosen for so many tokens, in torch or by a packed kernel."""
    packed = chosen.at(x.numel() // max(1, x.shape[-1]))
    activation = chosen.merged.activation
    if packed is not None:
        out: Tensor = torch.ops.rarefy.packed_linear(x, packed.handle, chosen.bias, activation, packed.shape[0])
        return out
    return activate(chosen.merged.dense(x), activation)


def activate(x: Tensor, activation: str) -> Tensor:
    """The activation by its name."""
    match activation:
        case "none":
            return x
        case "relu":
            return F.relu(x)
        case "silu":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
    raise EngineError(f"activation {activation!r} is not known")
