"""The block-by-block walk of a model that is not in memory: one block is, and hidden states wait on the disk.

Sites are visited in the order of `calibration.walk` and get the same evidence. After each unit (a block, or a site
outside the chain of blocks) everything that the next one needs is on the disk, so that a walk can go on later.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from rarefy.calibration.batches import Stop, blamed, inference, token_mask
from rarefy.calibration.blocks import Inputs, Walk, sites_inside
from rarefy.calibration.boundaries import Boundaries, Lazy
from rarefy.calibration.chain import Probe, hidden
from rarefy.calibration.collection import collecting
from rarefy.calibration.regional import first_tensor, regional_gradients
from rarefy.calibration.resident import Resident
from rarefy.core.errors import DataError, ModelError
from rarefy.core.evidence import Need
from rarefy.core.site import Site

_WANTED = -1  # a boundary of its own: what the block at work gave when it was dense


@dataclass(frozen=True)
class Unit:
    """What is pruned between two points from which a walk can go on. index: of the block in the chain."""

    name: str
    kind: Literal["before", "block", "after"]
    sites: tuple[Site, ...]
    index: int = 0


Commit = Callable[[Unit], None]  # called when a unit is done, its weights still in memory


def units_of(model: nn.Module, sites: Sequence[Site], shown: Probe) -> list[Unit]:
    """The units in the order of computation: sites before the chain, its blocks, sites after it."""
    by_name = {site.name: site for site in sites}
    order = [by_name[n] for n in shown.order if n in by_name] + [s for s in sites if s.name not in shown.order]
    names = {id(module): name for name, module in model.named_modules()}
    inside = [tuple(sites_inside(block, order)) for block in shown.chain]
    chained = {site.name for block in inside for site in block}
    _refuse_shared(shown, order, chained)
    first = next((i for i, s in enumerate(order) if s.name in chained), len(order))
    outside = [(i, s) for i, s in enumerate(order) if s.name not in chained]
    blocks = [Unit(names[id(b)], "block", inside[k], k) for k, b in enumerate(shown.chain)]
    before = [Unit(s.name, "before", (s,)) for i, s in outside if i < first]
    return [*before, *blocks, *(Unit(s.name, "after", (s,)) for i, s in outside if i >= first)]


def _refuse_shared(shown: Probe, order: Sequence[Site], chained: set[str]) -> None:
    members = {id(m) for block in shown.chain for m in block.modules()}
    for site in order:
        if site.name not in chained and any(id(m) in members for m in site.modules):
            raise ModelError(
                f"{site.name}: its weight is shared between blocks, which are in memory one at a time; "
                f"leave it alone with ignore=[{site.name!r}] or prune the loaded model with rarefy.prune"
            )


class StreamedWalk:
    """One walk. The model's parameters are on the meta device; `resident` brings them in."""

    def __init__(self, asked: Walk, shown: Probe, resident: Resident, boundaries: Boundaries) -> None:
        self.asked, self.shown, self.resident, self.boundaries = asked, shown, resident, boundaries
        self.chain = shown.chain

    def run(self, units: Sequence[Unit], done: Callable[[Unit], bool], commit: Commit) -> None:
        """Every unit that is not done, in order; stops after the last one that has sites."""
        last = max((i for i, unit in enumerate(units) if unit.sites), default=-1)
        how = {"before": self._before, "block": self._block, "after": self._after}
        with inference(self.asked.model):
            for i, unit in enumerate(units[: last + 1]):
                if not done(unit):
                    how[unit.kind](unit, i < last, commit)
                if unit.kind == "block":
                    self.boundaries.drop(unit.index)  # the next one is written by now

    def _before(self, unit: Unit, more: bool, commit: Commit) -> None:
        with self.resident.on_call(self.chain):
            self._outside(unit, commit, stop=self.chain[0])

    def _after(self, unit: Unit, more: bool, commit: Commit) -> None:
        end, place = len(self.chain), [0]
        with self.resident.on_call(self.chain), self._skipped(end, lambda: self.boundaries.read(end, place[0])):
            self._outside(unit, commit, place=place)

    def _outside(
        self, unit: Unit, commit: Commit, stop: nn.Module | None = None, place: list[int] | None = None
    ) -> None:
        """Evidence by running what lies outside the chain. stop: where a run may end; place: gets the batch's index."""
        asked = self.asked
        with collecting(unit.sites, asked.needs, asked.seed) as collection:
            for i, batch in enumerate(asked.batches):
                collection.real = token_mask(batch)
                if place is not None:
                    place[0] = i
                if stop is None:
                    asked.run(asked.model, batch, i)
                else:
                    self._caught(stop, i)
        collection.visit(asked.visit, {})
        commit(unit)

    def _block(self, unit: Unit, more: bool, commit: Commit) -> None:
        asked, block, k = self.asked, self.chain[unit.index], unit.index
        with self.resident.on_call(self.chain), self.resident.loaded(block):
            inputs = Lazy(partial(self._inputs, k), len(asked.batches))
            if unit.sites:
                with collecting(unit.sites, asked.needs, asked.seed) as collection:
                    for i, (args, kwargs) in enumerate(inputs):
                        collection.real = token_mask(asked.batches[i])
                        with blamed(f"data[{i}]", block, args):
                            block(*args, **kwargs)
                wanted = self._wanted(block, inputs) if asked.after is not None else []
                wants = Need.REGIONAL_GRADIENT in asked.needs
                collection.visit(asked.visit, regional_gradients(block, unit.sites, inputs) if wants else {})
                if asked.after is not None:
                    real = [token_mask(batch) for batch in asked.batches]
                    asked.after(block, unit.sites, inputs, wanted, real)
                    self.boundaries.drop(_WANTED)
            for i, (args, kwargs) in enumerate(inputs if more else ()):
                with blamed(f"data[{i}]", block, args):
                    self.boundaries.write(k + 1, i, hidden(block(*args, **kwargs)))
            commit(unit)

    def _wanted(self, block: nn.Module, inputs: Inputs) -> Sequence[Tensor]:
        """What the block gives before its sites are pruned; kept on the disk."""
        for i, (args, kwargs) in enumerate(inputs):
            with blamed(f"data[{i}]", block, args):
                self.boundaries.write(_WANTED, i, first_tensor(block(*args, **kwargs)))
        return Lazy(partial(self.boundaries.read, _WANTED), len(inputs))

    def _inputs(self, k: int, i: int) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of block k for batch i: those that the model makes anew, and the hidden states kept."""
        with self._skipped(k, None):
            args, kwargs = self._caught(self.chain[k], i)
        if k:
            args[0] = self.boundaries.read(k, i)
        return args, kwargs

    def _caught(self, block: nn.Module, i: int) -> tuple[list[Any], dict[str, Any]]:
        """What the model calls a block with; the rest of it is not run."""
        seen: list[tuple[list[Any], dict[str, Any]]] = []

        def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append((list(args), kwargs))
            raise Stop

        hook = block.register_forward_pre_hook(catch, with_kwargs=True, prepend=True)
        try:
            self.asked.run(self.asked.model, self.asked.batches[i], i)
        except Stop:
            return seen[0]
        finally:
            hook.remove()
        raise DataError(f"data[{i}]: does not reach {type(block).__name__}, as the first batch does; leave it out")

    @contextmanager
    def _skipped(self, count: int, last: Callable[[], Tensor] | None) -> Iterator[None]:
        """The first blocks of the chain hand on what they get; `last` is what the last of them returns instead."""
        parts = self.shown.parts

        def stand_in(number: int) -> Callable[..., Any]:
            def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
                value = last() if last is not None and number == count - 1 else x
                return (value, *[None] * (parts - 1)) if parts else value

            return forward

        try:
            for number, block in enumerate(self.chain[:count]):
                block.forward = stand_in(number)
            yield
        finally:
            for block in self.chain[:count]:
                vars(block).pop("forward", None)
