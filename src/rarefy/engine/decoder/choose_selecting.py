"""Whether a layer whose inputs or neurons are selected runs by kernels that skip the rest: timed on the example.

The others compute on the same inputs, with zeros where nothing was selected, so a choice never changes a result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rarefy.core.quantized import QuantizedWeight
from rarefy.engine.cell import Cell, Zeros, bucket
from rarefy.engine.cold import evictor
from rarefy.engine.cost import stored_bytes
from rarefy.engine.decoder.selecting import rows_like
from rarefy.engine.decoder.structure import Merged
from rarefy.engine.explain import LayerRow
from rarefy.engine.precision import Precision
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedWeight, pack
from rarefy.ops.packed import pick_rows, selecting

_COUNTS = (1, 2, 4, 8, 16)  # tokens of a step: beyond, nearly every input is used by some token
# Share of a weight's bytes below which skipping is expected to win, where nothing is timed: of one or two tokens, and
# of more, for which other kernels read a weight once as well, and whose inputs a batch of other texts uses more of.
_WORTH, _WORTH_TOGETHER = 0.7, 0.4
_MARGIN = 0.97  # it has to win by more than the noise of the timing
_SECONDS = 0.15  # of timing a layer and count


@dataclass(frozen=True, eq=False)
class Seen:
    """sample: rows (some tokens, in) with zeros where nothing was selected; rows: they are not inputs of the layer but
    say which of its rows are used."""

    sample: Tensor
    rows: bool = False


@dataclass
class Selecting:
    """Chooses for layers with selected inputs or rows; those alike are timed once a model.

    cold: the weights are timed as they come from memory.
    """

    precision: Precision
    measure: bool
    cold: bool = False
    _known: dict[tuple[Any, ...], dict[str, float]] = field(default_factory=dict)

    def choose(
        self, merged: Merged, source: Tensor | QuantizedWeight, names: Mapping[int, str], seen: Seen, zeros: Zeros
    ) -> tuple[dict[int, str], dict[str, PackedWeight], list[LayerRow]]:
        """The names by token count with skipping kernels where they win, those packed already, and what explains it.

        names: what was chosen for inputs without a zero; zeros: of the weight.
        """
        skipping = selecting(source, self.precision.weights, self.precision.activations, rows=seen.rows)
        packs: dict[str, PackedWeight] = {}
        rows: list[LayerRow] = []
        chosen = {count: _at(names, count) for count in sorted({*_COUNTS, *names})}
        for count in _COUNTS if skipping else ():
            dense = chosen[count]
            if dense == "dense":  # torch, for more tokens than a step has
                continue
            x = rows_like(seen.sample, count)
            used = float((x != 0).any(0).float().mean())
            ms = self._times(merged, source, (*skipping, dense), packs, x, used, seen.rows)
            best = min(skipping, key=lambda name: ms[name]) if ms else skipping[-1]
            if ms:
                wins = ms[best] < _MARGIN * ms[dense]
            else:
                cell = Cell((source.shape[0], source.shape[1]), zeros.nnz, zeros.support, count)
                worth = _WORTH if count <= 2 else _WORTH_TOGETHER
                wins = used * stored_bytes(cell, best) < worth * stored_bytes(cell, dense)
            chosen[count] = best if wins else dense
            rows.append(_row(merged, zeros, count, chosen[count], dense, best, used, ms, seen.rows))
        return chosen, {name: packed for name, packed in packs.items() if name in chosen.values()}, rows

    def _times(
        self,
        merged: Merged,
        source: Tensor | QuantizedWeight,
        names: tuple[str, ...],
        packs: dict[str, PackedWeight],
        x: Tensor,
        used: float,
        rows: bool,
    ) -> dict[str, float]:
        """Milliseconds by kernel; empty where nothing is timed. What is packed for it goes into `packs`."""
        if not self.measure:
            return {}
        key = (merged.in_features, merged.out_features, len(x), bucket(round(used * 4096), 4096), *names)
        if key not in self._known:
            packs |= {name: pack(source, name) for name in names if name not in packs}
            with torch.inference_mode():
                calls, before = _calls(packs, names, x, rows), evictor() if self.cold else None
                rounds = interleaved(calls, rounds=30, warmup=1, seconds=_SECONDS, before=before)
            self._known[key] = {name: rounds.median(name) for name in names}
        return self._known[key]


def _at(names: Mapping[int, str], count: int) -> str:
    """The name of the nearest count at or above, the largest's beyond."""
    limits = [limit for limit in names if limit >= count]
    return names[min(limits, default=max(names))]


def _calls(packs: Mapping[str, PackedWeight], names: Sequence[str], x: Tensor, rows: bool) -> dict[str, Any]:
    if not rows:
        return {name: partial(packs[name].multiply, x, None, "none") for name in names}
    list_ = (x != 0).any(0).nonzero().flatten().int()
    inputs = torch.randn(len(x), packs[names[0]].shape[1], generator=torch.Generator().manual_seed(0))
    skipping = {name: partial(pick_rows, packs[name], inputs, list_) for name in names if "neurons" in name}
    return {name: skipping.get(name, partial(packs[name].multiply, inputs, None, "none")) for name in names}


def _row(
    merged: Merged,
    zeros: Zeros,
    count: int,
    name: str,
    dense: str,
    best: str,
    used: float,
    ms: Mapping[str, float],
    rows: bool,
) -> LayerRow:
    sparsity = 1.0 - zeros.nnz / max(1, merged.size)
    what = f"{used:.0%} of the {'rows' if rows else 'inputs'} are used"
    if ms:
        gain = ms[dense] / ms[best]
        reason = f"{what}: {best} is {gain:.2f} times as fast as {dense}" + ("" if name == best else ", which stays")
    else:
        reason = f"{what}; not timed"
    label = merged.name if len(merged.parts) == 1 else f"{merged.name} and {len(merged.parts) - 1} more"
    shape = (merged.out_features, merged.in_features)
    return LayerRow(
        label, shape, sparsity, count, name, ms.get(dense), ms.get(best), reason, dict(ms), "measured" if ms else ""
    )
