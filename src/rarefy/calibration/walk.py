"""One calibration pass: evidence of one block at a time, later blocks seeing the already sparse earlier ones."""

from collections.abc import Sequence

from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run, blamed, call_model, inference, token_mask
from rarefy.calibration.blocks import AfterBlock, Inputs, Visit, Walk, block_inputs, sites_inside
from rarefy.calibration.chain import Probe, hidden, probe
from rarefy.calibration.collection import collecting
from rarefy.calibration.paired_walk import walk_paired
from rarefy.calibration.regional import first_tensor, regional_gradients
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site


def collect(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    seed: int = 0,
    run: Run = call_model,
) -> dict[str, Evidence]:
    """Evidence of all sites of the model as it is, in one pass over the data."""
    with inference(model), collecting(sites, needs, seed) as collection:
        for i, batch in enumerate(batches):
            collection.real = token_mask(batch)
            run(model, batch, i)
    return {site.name: collection.sums.take(site.name, site.groups) for site in sites}


def walk(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    needs: frozenset[Need],
    visit: Visit,
    seed: int = 0,
    run: Run = call_model,
    after: AfterBlock | None = None,
) -> None:
    """Calls `visit(site, evidence)` for every site in the order of computation.

    What `visit` writes into the model is what later sites are calibrated on. Sites of one block get their
    evidence from the same pass, as in the papers. A site that no batch reaches raises an error naming it.
    after: called for each block of the chain once its sites were visited; where there is no chain, once, for the
    whole model.
    """
    asked = Walk(model, sites, batches, needs, visit, seed, run, after)
    if Need.WANTED_CROSS in needs:
        walk_paired(asked)
        return
    with inference(model):
        shown = probe(model, sites, batches[0], run)
        if not shown.chain and after is not None:
            inputs, entered = block_inputs(asked, model)
            wanted = _outputs(model, inputs, entered)
        _visit_all(asked, shown)
        if not shown.chain and after is not None:
            after(model, sites, inputs, wanted, [token_mask(batches[i]) for i in entered])


def _visit_all(asked: Walk, shown: Probe) -> None:
    by_name = {site.name: site for site in asked.sites}
    order = [by_name[n] for n in shown.order] + [s for s in asked.sites if s.name not in shown.order]
    inside = [sites_inside(block, order) for block in shown.chain]
    chained = {site.name for block in inside for site in block}
    first = next((i for i, s in enumerate(order) if s.name in chained), len(order))
    for site in [s for s in order[:first] if s.name not in chained]:
        _whole_pass(asked, site)
    if shown.chain:
        _blocks(asked, shown.chain, inside)
    for site in [s for s in order[first:] if s.name not in chained]:
        _whole_pass(asked, site)


def _outputs(block: nn.Module, inputs: Inputs, entered: Sequence[int]) -> list[Tensor]:
    """What a block gives for its inputs, one entry a batch."""
    found = []
    for (args, kwargs), i in zip(inputs, entered, strict=True):
        with blamed(f"data[{i}]", block, args):
            found.append(first_tensor(block(*args, **kwargs)))
    return found


def _regional(asked: Walk, block: nn.Module, sites: Sequence[Site], inputs: Inputs) -> dict[str, Tensor]:
    return regional_gradients(block, sites, inputs) if Need.REGIONAL_GRADIENT in asked.needs else {}


def _whole_pass(asked: Walk, site: Site) -> None:
    """Evidence by running the whole model: for a site outside a chain of blocks."""
    with collecting([site], asked.needs, asked.seed) as collection:
        for i, batch in enumerate(asked.batches):
            collection.real = token_mask(batch)
            asked.run(asked.model, batch, i)
    inputs = block_inputs(asked, asked.model)[0] if Need.REGIONAL_GRADIENT in asked.needs else []
    collection.visit(asked.visit, _regional(asked, asked.model, [site], inputs))


def _blocks(asked: Walk, chain: Sequence[nn.Module], inside: Sequence[Sequence[Site]]) -> None:
    """The chain, one block at a time: collect, visit, run again to get the next block's inputs."""
    inputs, entered = block_inputs(asked, chain[0])
    for block, sites in zip(chain, inside, strict=True):
        wanted = _outputs(block, inputs, entered) if sites and asked.after is not None else []
        if sites:
            with collecting(sites, asked.needs, asked.seed) as collection:
                for (args, kwargs), i in zip(inputs, entered, strict=True):
                    collection.real = token_mask(asked.batches[i])
                    with blamed(f"data[{i}]", block, args):
                        block(*args, **kwargs)
            collection.visit(asked.visit, _regional(asked, block, sites, inputs))
        if sites and asked.after is not None:
            asked.after(block, sites, inputs, wanted, [token_mask(asked.batches[i]) for i in entered])
        for (args, kwargs), i in zip(inputs, entered, strict=True):
            with blamed(f"data[{i}]", block, args):
                args[0] = hidden(block(*args, **kwargs))
