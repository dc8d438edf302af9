"""Which layouts each merged layer gets: one for a token or a few, and another only where it wins clearly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import EngineError
from rarefy.core.quantized import InputScale
from rarefy.engine.cell import Types, Zeros, cell_of, zeros_of
from rarefy.engine.cost import guesses
from rarefy.engine.decoder.choose_selecting import Seen, Selecting
from rarefy.engine.decoder.layouts import two_layouts
from rarefy.engine.decoder.structure import Merged
from rarefy.engine.explain import LayerRow
from rarefy.engine.plan import LayerTimer
from rarefy.engine.precision import Precision
from rarefy.engine.times import Times, TimeTable
from rarefy.ops import PackedWeight, available, candidates, pack
from rarefy.ops.decoder import Linear

_WALK_MS = 0.03  # what a dense layer costs beside its product: the step is then no native call, but goes through Python
_FEW = 8  # token counts up to here are always served natively, so that a step is one call


@dataclass(frozen=True, eq=False)
class Chosen:
    """The layouts of one merged layer: packed weights up to token counts, None = the dense layers in torch."""

    merged: Merged
    bias: Tensor | None
    steps: tuple[tuple[int, PackedWeight | None], ...]
    rest: "tuple[Chosen, Chosen] | None" = None

    def at(self, tokens: int) -> PackedWeight | None:
        """The choice of the nearest measured count at or above `tokens` (the largest beyond the last)."""
        for limit, packed in self.steps:
            if tokens <= limit:
                return packed
        return self.steps[-1][1]

    def native(self) -> Linear:
        """The packed choices, for the native step."""
        packed = tuple((limit, weight) for limit, weight in self.steps if weight is not None)
        rest = None if self.rest is None else (self.rest[0].native(), self.rest[1].native())
        return Linear(packed, self.bias, self.merged.activation, self.merged.select, rest)

    def is_native(self, tokens: int) -> bool:
        """Whether a native step can run it for so many tokens."""
        return self.at(tokens) is not None and all(one.is_native(tokens) for one in self.rest or ())

    @property
    def out_features(self) -> int:
        return self.merged.out_features

    @property
    def nbytes(self) -> int:
        own = sum({id(p): p.nbytes for _, p in self.steps if p is not None}.values())
        return own + sum(one.nbytes for one in self.rest or ())


class Chooser:
    """Chooses for layers at token counts; those of one cell (`engine.cell`) are timed once a machine.

    scales: of 8-bit inputs by layer, where they are known in advance; measure: False times nothing and goes by times
    that are known and the cost model; cold: the model is so large that a step reads it from memory, and is timed so.
    """

    def __init__(
        self,
        precision: Precision,
        counts: Sequence[int],
        scales: Mapping[str, InputScale] | None = None,
        *,
        measure: bool = True,
        cold: bool = False,
    ) -> None:
        self.precision, self.counts, self.scales = precision, sorted(set(counts)), scales or {}
        self.cold = cold
        self.rows: list[LayerRow] = []
        self.measure = measure
        self._timer = LayerTimer(precision, bool(scales), _FEW if cold and measure else 0)
        self._types = Types(precision.weights, precision.activations, static=bool(scales))
        self._table = TimeTable(self._timer if measure else None)
        self._selecting = Selecting(precision, measure, cold)
        self._full: dict[tuple[int, int, int], list[str]] = {}

    def choose(self, merged: Merged, seen: Seen | None = None) -> Chosen:
        """Packs the layer for what is fastest at each count. Raises EngineError where no kernel has the types.

        seen: what is left of its inputs or neurons, where some are selected.
        """
        weight = merged.weight()
        rest = None if merged.rest is None else (self.choose(merged.rest[0]), self.choose(merged.rest[1]))
        if not available():
            return Chosen(merged, merged.bias(), ((self.counts[-1], None),), rest)
        zeros = zeros_of(weight)
        scale, names = self.scales.get(merged.name), self._names(merged, weight, zeros)
        self._timer.forget()
        source = self.precision.stored(weight, scale, merged.codes())
        packs: dict[str, PackedWeight] = {}
        if seen is not None and (scale is None or not scale.factors):
            names, packs, rows = self._selecting.choose(merged, source, names, seen, zeros)
            self.rows += rows
        for name in dict.fromkeys(names.values()):
            if name != "dense" and name not in packs:
                packs[name] = pack(source, name, input_scale=scale)
        return Chosen(merged, merged.bias(), tuple((count, packs.get(name)) for count, name in names.items()), rest)

    def finer(self) -> "Chooser":
        """For what all of a block goes through: integers would round the residual stream anew at every block."""
        if not self.precision.quantized:
            return self
        found = Chooser(Precision("bf16"), self.counts, measure=self.measure, cold=self.cold)
        found.rows = self.rows
        return found

    def _names(self, merged: Merged, weight: Tensor, zeros: Zeros) -> dict[int, str]:
        """The choice at each count: the fastest layout at the least, and at most one more where that is far behind."""
        types = {count: replace(self._types, cold=self.cold and count <= _FEW) for count in self.counts}
        full = zeros.nnz == weight.numel()
        names = {count: self._candidates(weight, count, full) for count in self.counts}
        found = {count: self._times(weight, count, types[count], zeros, names[count]) for count in self.counts}
        at = {count: self._options(count, times, names[count]) for count, times in found.items()}
        if not at[self.counts[0]]:
            raise EngineError(f"compile: no kernel has {self.precision} for single tokens on this CPU; choose others")
        first, second = two_layouts(at)
        chosen: dict[int, str] = {}
        sparsity = 1.0 - zeros.nnz / max(1, weight.numel())
        for count in self.counts:
            kept = {name: ms for name, ms in at[count].items() if name in (first, second, "dense")}
            chosen[count] = min(kept, key=kept.__getitem__, default=first if count <= _FEW else second)
            self._explain(merged, weight, sparsity, count, chosen[count], found[count])
        return chosen

    def _times(self, weight: Tensor, count: int, types: Types, zeros: Zeros, names: Sequence[str]) -> Times:
        """Milliseconds of the candidates; where none was ever timed and one of them must run, of those that the model
        knows nothing of by what they read and multiply."""
        found = self._table.times(weight, None, count, types, zeros=zeros)
        if found.origin != "model" or (self.precision.exact and count > _FEW):
            return found
        cell = cell_of(weight, count, types, bias=False, zeros=zeros)
        return replace(found, ms={**guesses(cell, names), **found.ms})

    def _options(self, count: int, times: Times, names: Sequence[str]) -> dict[str, float]:
        """Milliseconds of what may run at a count: the packed kernels, and torch where a step need not be one call."""
        at = {name: times.ms.get(name, float("inf")) for name in names}
        return {**at, "dense": times.ms["dense"] + _WALK_MS} if self.precision.exact and count > _FEW else at

    def _candidates(self, weight: Tensor, count: int, full: bool) -> list[str]:
        """What is worth timing: of weights without zeros a question of their size, asked once a size."""
        types = self.precision.weights, self.precision.activations
        if not full:
            return candidates(weight, count, *types)
        key = (weight.shape[0], weight.shape[1], count)
        if key not in self._full:
            self._full[key] = candidates(weight, count, *types)
        return self._full[key]

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
        if name != "dense":
            reason += self.precision.rounds_anew(merged.codes())
        label = merged.name if len(merged.parts) == 1 else f"{merged.name} and {len(merged.parts) - 1} more"
        shape = (weight.shape[0], weight.shape[1])
        row = LayerRow(label, shape, sparsity, count, name, dense, packed.get(best), reason, packed, found.origin)
        self.rows.append(row)


def linear(chosen: Chosen, x: Tensor, masks: Mapping[int, Tensor] = MappingProxyType({})) -> Tensor:
    """act(look(x) W^T + bias) of (..., in) by what was chosen for so many tokens, in torch or by a packed kernel; what
    it does not look at goes through its rest."""
    kept, activation = chosen.merged.look(x, masks), chosen.merged.activation
    if chosen.rest is None:
        return _product(chosen, kept, activation)
    rest = linear(chosen.rest[1], linear(chosen.rest[0], x - kept))
    return activate(_product(chosen, kept, "none") + rest, activation)


def _product(chosen: Chosen, x: Tensor, activation: str) -> Tensor:
    packed = chosen.at(x.numel() // max(1, x.shape[-1]))
    if packed is not None:
        out: Tensor = torch.ops.rarefy.packed_linear(x, packed.handle, chosen.bias, activation, packed.shape[0])
        return out
    return activate(chosen.merged.dense(x), activation)


def stacked(chosen: Sequence[Chosen], x: Tensor) -> Tensor:
    """Layers of one input, their outputs beside each other."""
    outs = [linear(one, x) for one in chosen]
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


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
        case "relu2":
            return F.relu(x).square()
    raise EngineError(f"activation {activation!r} is not known")
