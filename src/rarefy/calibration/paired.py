"""Calibration of a block against its dense twin: what each layer gets, and what it should give.

The plain walk asks a layer to reproduce its own dense output on the inputs that it gets in the sparse model.
Here it is asked for the output that it has in the dense model, on dense inputs: errors of earlier layers are
repaired and not carried along. Where a layer adds to a residual stream, it also gets what the stream lacks.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.accumulator import Accumulators
from rarefy.calibration.batches import Batch, token_mask
from rarefy.calibration.blocks import Inputs, Visit
from rarefy.calibration.chain import hidden
from rarefy.calibration.inputs import input_rows, output_rows
from rarefy.calibration.observe import Spot, everything, look
from rarefy.calibration.residual import residual_spots
from rarefy.core.evidence import Need
from rarefy.core.site import Site

_OUTPUT = Spot("", "out")


class _DenseRuns:
    """What the dense twin shows at some spots, one run a batch; kept while there is room, else run again."""

    def __init__(self, twin: nn.Module, inputs: Inputs, spots: Sequence[Spot], room: int) -> None:
        self.twin, self.inputs = twin, inputs
        self.kept: list[dict[Spot, Tensor] | None] = []
        for args, kwargs in inputs:
            seen = look(twin, spots, args, kwargs) if room > 0 else None
            room -= sum(t.numel() * t.element_size() for t in seen.values()) if seen else 0
            self.kept.append(seen)

    def at(self, index: int, spots: Sequence[Spot]) -> dict[Spot, Tensor]:
        kept = self.kept[index]
        return look(self.twin, spots, *self.inputs[index]) if kept is None else kept


class PairedBlock:
    """One block of the model being pruned and a frozen copy of it as it was.

    room: bytes that may hold the dense twin's tensors of this block, so that it runs once a batch and not once a
    group of layers.
    """

    def __init__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        needs: frozenset[Need],
        seed: int,
        twin: nn.Module | None = None,
        room: int = 2 << 30,
    ) -> None:
        self.block, self.twin = block, copy.deepcopy(block) if twin is None else twin
        self.needs, self.seed, self.room = needs, seed, room
        names = {id(m): name for name, m in block.named_modules()}
        self.names = {site.name: names[id(site.module)] for site in sites}
        self.sites = sites

    def run(self, sparse: Inputs, dense: Inputs, batches: Sequence[Batch], visit: Visit) -> list[Tensor | None]:
        """Visits the sites in order; sites that read one tensor are collected together, later ones see them sparse.

        Returns the dense twin's outputs as far as they were kept.
        """
        residual = residual_spots(self.twin, list(self.names.values()), *dense[0])
        spots = [Spot(name, "out") for name in self.names.values()] + list(residual.values())
        runs = _DenseRuns(self.twin, dense, [*dict.fromkeys(spots), _OUTPUT], self.room)
        for group in self._groups(dense[0]):
            sums = Accumulators([site.name for site in group], self.needs, self.seed)
            for i, batch in enumerate(batches):
                self._collect(group, residual, sparse[i], i, runs, token_mask(batch), sums)
            for site in group:
                visit(site, sums.take(site.name, site.groups))
        return [None if kept is None else kept.get(_OUTPUT) for kept in runs.kept]

    def advance(self, sparse: Inputs, dense: Inputs, outputs: Sequence[Tensor | None]) -> None:
        """Turns the inputs of this block into those of the next, in both streams."""
        for args, kwargs in sparse:
            args[0] = hidden(self.block(*args, **kwargs))
        for (args, kwargs), known in zip(dense, outputs, strict=True):
            args[0] = hidden(self.twin(*args, **kwargs)) if known is None else known

    def output(self, index: int, dense: Inputs, known: Sequence[Tensor | None]) -> Tensor:
        """The dense twin's output for a batch, run again where it was not kept."""
        kept, (args, kwargs) = known[index], dense[index]
        output: Tensor = hidden(self.twin(*args, **kwargs)) if kept is None else kept
        return output

    def _groups(self, example: tuple[list[Any], dict[str, Any]]) -> list[list[Site]]:
        """The sites by the tensor that they read, in the order of their first call."""
        first: dict[str, tuple[int, int]] = {}
        seen = everything(self.twin, *example)  # held, so that no id is given twice
        for spot, value, version in seen:
            if spot.side == "in":
                first.setdefault(spot.name, (id(value), version))
        place = {name: i for i, name in enumerate(first)}
        groups: list[tuple[tuple[int, int] | None, list[Site]]] = []
        for site in sorted(self.sites, key=lambda s: place.get(self.names[s.name], len(place))):
            read = first.get(self.names[site.name])
            if groups and read is not None and groups[-1][0] == read:
                groups[-1][1].append(site)
            else:
                groups.append((read, [site]))
        return [sites for _, sites in groups]

    def _collect(
        self,
        group: Sequence[Site],
        residual: dict[str, Spot],
        sparse: tuple[list[Any], dict[str, Any]],
        index: int,
        runs: _DenseRuns,
        real: Tensor | None,
        sums: Accumulators,
    ) -> None:
        """One batch: inputs of the group's sites in both models, and what their residual streams differ by."""
        names = {site.name: self.names[site.name] for site in group}
        inputs = [Spot(name, "in") for name in names.values()]
        streams = [residual[name] for name in names.values() if name in residual]
        mine = look(self.block, [*inputs, *streams], *sparse)
        theirs = runs.at(index, [*(Spot(name, "out") for name in names.values()), *streams])
        same = object()
        for site in group:
            name = names[site.name]
            if Spot(name, "in") not in mine or Spot(name, "out") not in theirs:
                continue
            wanted = output_rows(site.module, theirs[Spot(name, "out")], real)
            stream = residual.get(name)
            if stream is not None:
                wanted = wanted + output_rows(nn.Identity(), theirs[stream] - mine[stream], real)
            rows = input_rows(site.module, mine[Spot(name, "in")], real)
            sums.add(site.name, rows, wanted, None if isinstance(site.module, nn.Conv2d) else same)
