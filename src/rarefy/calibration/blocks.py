"""What one walk over a model is asked to do, and how the blocks of a chain are entered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run, Stop
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site

Visit = Callable[[Site, Evidence], None]
Inputs = Sequence[tuple[list[Any], dict[str, Any]]]  # positional and keyword arguments of a block, one entry a batch
# (block, its sites, its inputs, the outputs wanted of it, masks of real tokens), once its sites have been visited
AfterBlock = Callable[[nn.Module, Sequence[Site], Inputs, Sequence[Tensor], list[Tensor | None]], None]


@dataclass(frozen=True)
class Walk:
    """A model, the sites to visit, the batches to run, what to collect, and whom to hand it to.

    after: called when all sites of a block were visited, with the outputs that the block had before.
    """

    model: nn.Module
    sites: Sequence[Site]
    batches: Sequence[Batch]
    needs: frozenset[Need]
    visit: Visit
    seed: int
    run: Run
    after: AfterBlock | None = None


def sites_inside(block: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """The sites all of whose modules lie in a block."""
    members = {id(m) for m in block.modules()}
    return [site for site in sites if all(id(m) in members for m in site.modules)]


def block_inputs(walk: Walk, block: nn.Module) -> tuple[Inputs, list[int]]:
    """The arguments that the first block of a chain gets, and the indices of the batches that get there.

    The rest of the model is not run.
    """
    seen: list[tuple[list[Any], dict[str, Any]]] = []
    entered: list[int] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((list(args), kwargs))
        raise Stop

    hook = block.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for i, batch in enumerate(walk.batches):
            try:
                walk.run(walk.model, batch, i)
            except Stop:
                entered.append(i)
    finally:
        hook.remove()
    return seen, entered
