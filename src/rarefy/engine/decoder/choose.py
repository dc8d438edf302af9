"""Which layouts each merged layer gets: one for a token or a few, and another for many only where it wins clearly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.core.quantized import QuantizedWeight, quantize_weight
from rarefy.engine.decoder.structure import Merged, Structure
from rarefy.engine.explain import LayerRow
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedWeight, available, candidates, pack
from rarefy.ops.decoder import Linear

BITS = {"int8": 8, "int4": 4}
_GROUPS = (32, 16)  # inputs to a scale of 4-bit weights: the first that divides the layer
_SECOND_LAYOUT = 1.25  # a second copy of a weight costs memory: it has to be so much faster than the first
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
    def nbytes(self) -> int:
        return sum({id(p): p.nbytes for _, p in self.steps if p is not None}.values())


Timer = Callable[[dict[str, Callable[[], Any]]], dict[str, float]]


def measured(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median milliseconds of each call in interleaved rounds."""
    with torch.inference_mode():
        rounds = interleaved(calls, rounds=7, warmup=1, seconds=0.4)
    return {name: rounds.median(name) for name in calls}


def group_of(width: int) -> int | None:
    """How many inputs share a 4-bit scale; None: the whole row."""
    return next((group for group in _GROUPS if width % group == 0), None)


def stored(weight: Tensor, weights: str) -> Tensor | QuantizedWeight:
    """The weight (out, in) as it is to be stored."""
    if weights in BITS:
        return quantize_weight(weight, BITS[weights], group_of(weight.shape[1]) if weights == "int4" else None)
    return weight


class Chooser:
    """Chooses for layers; those of one shape and density are timed once."""

    def __init__(self, weights: str, activations: str, counts: Sequence[int], timer: Timer = measured) -> None:
        self.weights, self.activations, self.timer = weights, activations, timer
        self.counts = sorted(set(counts))
        self.rows: list[LayerRow] = []
        self._timed: dict[Any, dict[int, dict[str, float]]] = {}

    def choose(self, merged: Merged) -> Chosen:
        """Packs the layer for what is fastest at each count."""
        weight = merged.weight()
        if not available():
            return Chosen(merged, merged.bias(), ((self.counts[-1], None),))
        source = stored(weight, self.weights)
        nonzeros = int((source.values if isinstance(source, QuantizedWeight) else source).count_nonzero())
        sparsity = 1.0 - nonzeros / max(1, weight.numel())
        key = (tuple(weight.shape), round(sparsity * 50))
        if key not in self._timed:
            self._timed[key] = self._times(source, merged)
        names = self._names(self._timed[key])
        packs = {name: pack(source, name) for name in dict.fromkeys(names.values()) if name != "dense"}
        for count, name in names.items():
            self._explain(merged, tuple(weight.shape), sparsity, count, name, self._timed[key][count])
        steps = tuple((count, packs.get(name)) for count, name in names.items())
        return Chosen(merged, merged.bias(), steps)

    def _times(self, source: Tensor | QuantizedWeight, merged: Merged) -> dict[int, dict[str, float]]:
        """Milliseconds by count and kernel."""
        found: dict[int, dict[str, float]] = {}
        packs: dict[str, PackedWeight] = {}
        few: set[str] = set()
        for count in self.counts:
            fitting = candidates(source, count, self.weights, self.activations)
            if not fitting and not few:
                raise EngineError(
                    f"compile: no kernel stores {self.weights} weights with {self.activations} activations for "
                    f"{count} tokens on this CPU; choose other types"
                )
            few |= set(fitting) if count <= _FEW else set()
            calls: dict[str, Callable[[], Any]] = {}
            x = torch.randn(count, source.shape[1], generator=torch.Generator().manual_seed(0))
            for name in dict.fromkeys([*fitting, *(few if count <= 4 * _FEW or not fitting else ())]):
                if name not in packs:
                    packs[name] = pack(source, name)
                calls[name] = partial(packs[name].multiply, x, None, "none")
            if count > _FEW and self.weights == "fp32" and self.activations == "fp32":
                calls["dense"] = partial(_dense, x, merged)
            found[count] = self.timer(calls)
        return found

    def _names(self, times: dict[int, dict[str, float]]) -> dict[int, str]:
        """The choice at each count, with few different layouts."""
        chosen: dict[int, str] = {}
        for count in self.counts:
            at = times[count]
            best = min(at, key=lambda name: at[name])
            cheap = [name for name in at if name == "dense" or name in chosen.values()]
            near = min(cheap, key=lambda name: at[name], default=best)
            chosen[count] = near if at[near] <= _SECOND_LAYOUT * at[best] else best
        return chosen

    def _explain(
        self, merged: Merged, shape: tuple[int, ...], sparsity: float, count: int, name: str, times: dict[str, float]
    ) -> None:
        sparse = {kernel: ms for kernel, ms in times.items() if kernel != "dense"}
        dense, best = times.get("dense"), min(sparse, key=lambda kernel: sparse[kernel])
        reason = "fastest" if times[name] == min(times.values()) else f"{best} is faster but would be a second layout"
        if dense is not None and name != "dense":
            reason = f"{dense / times[name]:.2f}x faster than dense"
        label = merged.name if len(merged.parts) == 1 else f"{merged.name} and {len(merged.parts) - 1} more"
        self.rows.append(
            LayerRow(label, (shape[0], shape[1]), sparsity, count, name, dense, sparse[best], reason, dict(sparse))
        )


def _dense(x: Tensor, merged: Merged) -> Tensor:
    return merged.dense(x)


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
