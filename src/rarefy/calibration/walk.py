"""One calibration pass: evidence of one block at a time, later blocks seeing the already sparse earlier ones."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run, Stop, as_call, blamed, call_model, inference, token_mask
from rarefy.calibration.chain import hidden, probe
from rarefy.calibration.collectors import Accumulator
from rarefy.calibration.inputs import input_rows
from rarefy.calibration.paired import PairedBlock
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site

Visit = Callable[[Site, Evidence], None]


class _Collection:
    def __init__(self, sites: Sequence[Site], needs: frozenset[Need], seed: int) -> None:
        self.sites = sites
        self.accumulators = {site.name: Accumulator(site.name, needs, seed) for site in sites}
        self.real: Tensor | None = None  # which tokens of the current batch are no padding
        self.last: tuple[Any, Any, dict[Need, Tensor]] = (None, None, {})  # layers that read one tensor share its sums

    def hook(self, site: Site) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if x is not self.last[0] or isinstance(module, nn.Conv2d):
                self.last = (x, input_rows(module, x, self.real), {})
            self.accumulators[site.name].add(self.last[1], shared=self.last[2])

        return see

    def visit(self, visit: Visit) -> None:
        for site in self.sites:
            visit(site, self.accumulators.pop(site.name).evidence(site.groups))


@contextmanager
def _collecting(sites: Sequence[Site], needs: frozenset[Need], seed: int) -> Iterator[_Collection]:
    """Hooks on the sites that fill accumulators while the context is open."""
    collection = _Collection(sites, needs, seed)
    with ExitStack() as stack:
        for site in sites:
            for module in site.modules:
                hook = module.register_forward_pre_hook(collection.hook(site), with_kwargs=True)
                stack.callback(hook.remove)
        yield collection


def collect(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    seed: int = 0,
    run: Run = call_model,
) -> dict[str, Evidence]:
    """Evidence of all sites of the model as it is, in one pass over the data."""
    with inference(model), _collecting(sites, needs, seed) as collection:
        for i, batch in enumerate(batches):
            collection.real = token_mask(batch)
            run(model, batch, i)
    return {site.name: collection.accumulators[site.name].evidence(site.groups) for site in sites}


def walk(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    visit: Visit,
    seed: int = 0,
    run: Run = call_model,
) -> None:
    """Calls `visit(site, evidence)` for every site in the order of computation.

    What `visit` writes into the model is what later sites are calibrated on. Sites of one block get their
    evidence from the same pass, as in the papers. A site that no batch reaches raises an error naming it.
    """
    if Need.WANTED_CROSS in needs:
        _paired(model, sites, batches, needs, visit, seed, run)
        return
    with inference(model):
        shown = probe(model, sites, batches[0], run)
        by_name = {site.name: site for site in sites}
        order = [by_name[n] for n in shown.order] + [s for s in sites if s.name not in shown.order]
        inside = [_inside(block, order) for block in shown.chain]
        chained = {site.name for block in inside for site in block}
        first = next((i for i, s in enumerate(order) if s.name in chained), len(order))
        for site in [s for s in order[:first] if s.name not in chained]:
            _whole_pass(model, [site], batches, needs, visit, seed, run)
        if shown.chain:
            _blocks(model, shown.chain, inside, batches, needs, visit, seed, run)
        for site in [s for s in order[first:] if s.name not in chained]:
            _whole_pass(model, [site], batches, needs, visit, seed, run)


def _inside(block: nn.Module, sites: Sequence[Site]) -> list[Site]:
    members = {id(m) for m in block.modules()}
    return [site for site in sites if all(id(m) in members for m in site.modules)]


def _whole_pass(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    visit: Visit,
    seed: int,
    run: Run,
) -> None:
    """Evidence by running the whole model: for sites outside a chain of blocks."""
    with _collecting(sites, needs, seed) as collection:
        for i, batch in enumerate(batches):
            collection.real = token_mask(batch)
            run(model, batch, i)
    collection.visit(visit)


def _block_inputs(
    model: nn.Module, block: nn.Module, batches: Sequence[Batch], run: Run
) -> tuple[list[tuple[list[Any], dict[str, Any]]], list[int]]:
    """The arguments that the first block of the chain gets, and the indices of the batches that get there.

    The rest of the model is not run.
    """
    seen: list[tuple[list[Any], dict[str, Any]]] = []
    entered: list[int] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((list(args), kwargs))
        raise Stop

    hook = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for i, batch in enumerate(batches):
            try:
                run(model, batch, i)
            except Stop:
                entered.append(i)
    finally:
        hook.remove()
    return seen, entered


def _blocks(
    model: nn.Module,
    chain: Sequence[nn.Module],
    inside: Sequence[Sequence[Site]],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    visit: Visit,
    seed: int,
    run: Run,
) -> None:
    """The chain, one block at a time: collect, visit, run again to get the next block's inputs."""
    inputs, entered = _block_inputs(model, chain[0], batches, run)
    for block, sites in zip(chain, inside, strict=True):
        if sites:
            with _collecting(sites, needs, seed) as collection:
                for (args, kwargs), i in zip(inputs, entered, strict=True):
                    collection.real = token_mask(batches[i])
                    with blamed(f"data[{i}]", block, args):
                        block(*args, **kwargs)
            collection.visit(visit)
        for (args, kwargs), i in zip(inputs, entered, strict=True):
            with blamed(f"data[{i}]", block, args):
                args[0] = hidden(block(*args, **kwargs))


def _paired(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    visit: Visit,
    seed: int,
    run: Run,
) -> None:
    """The walk in which every block is held against its dense twin; without a chain the model is one block."""
    with inference(model):
        shown = probe(model, sites, batches[0], run)
        chained = {site.name for block in shown.chain for site in _inside(block, sites)}
        first = next((i for i, name in enumerate(shown.order) if name in chained), len(shown.order))
        before = [site for site in sites if site.name in shown.order[:first]]
        after = [site for site in sites if site.name not in chained and site not in before]
        twin = copy.deepcopy(model) if before or after else None
        inputs = [as_call(batch) for batch in batches]
        if before:
            PairedBlock(model, before, needs, seed, twin).run(inputs, inputs, batches, visit)
        if shown.chain:
            sparse, entered = _block_inputs(model, shown.chain[0], batches, run)
            dense = [(list(args), dict(kwargs)) for args, kwargs in sparse]
            for block in shown.chain:
                pair = PairedBlock(block, _inside(block, sites), needs, seed)
                known: list[Tensor | None] = [None] * len(dense)
                if pair.sites:
                    known = pair.run(sparse, dense, [batches[i] for i in entered], visit)
                pair.advance(sparse, dense, known)
        if after:
            PairedBlock(model, after, needs, seed, twin).run(inputs, inputs, batches, visit)
