"""The walk in which every block is held against its dense twin."""

import copy

from torch import Tensor, nn

from rarefy.calibration.batches import as_call, inference, token_mask
from rarefy.calibration.blocks import Walk, block_inputs, sites_inside
from rarefy.calibration.chain import probe
from rarefy.calibration.paired import PairedBlock


def walk_paired(walk: Walk) -> None:
    """Visits every site with the evidence of `calibration.paired`; without a chain the model is one block.

    Sites before and after the chain are held against a copy of the whole model, those inside it against a copy of
    their block only.
    """
    with inference(walk.model):
        shown = probe(walk.model, walk.sites, walk.batches[0], walk.run)
        chained = {site.name for block in shown.chain for site in sites_inside(block, walk.sites)}
        first = next((i for i, name in enumerate(shown.order) if name in chained), len(shown.order))
        before = [site for site in walk.sites if site.name in shown.order[:first]]
        after = [site for site in walk.sites if site.name not in chained and site not in before]
        twin = copy.deepcopy(walk.model) if before or after else None
        whole = [as_call(batch) for batch in walk.batches]
        if before:
            PairedBlock(walk.model, before, walk.needs, walk.seed, twin).run(whole, whole, walk.batches, walk.visit)
        if shown.chain:
            _chain(walk, shown.chain)
        if after:
            PairedBlock(walk.model, after, walk.needs, walk.seed, twin).run(whole, whole, walk.batches, walk.visit)


def _chain(walk: Walk, chain: tuple[nn.Module, ...]) -> None:
    sparse, entered = block_inputs(walk, chain[0])
    dense = [(list(args), dict(kwargs)) for args, kwargs in sparse]
    batches = [walk.batches[i] for i in entered]
    for block in chain:
        pair = PairedBlock(block, sites_inside(block, walk.sites), walk.needs, walk.seed)
        known: list[Tensor | None] = [None] * len(dense)
        if pair.sites:
            known = pair.run(sparse, dense, batches, walk.visit)
        if pair.sites and walk.after is not None:
            known = [pair.output(i, dense, known) for i in range(len(dense))]
            wanted = [output for output in known if output is not None]
            walk.after(block, pair.sites, sparse, wanted, [token_mask(batch) for batch in batches])
        pair.advance(sparse, dense, known)
