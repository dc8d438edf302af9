"""Hooks on the sites of a model that fill accumulators while data run through it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.accumulator import Accumulators
from rarefy.calibration.blocks import Visit
from rarefy.calibration.inputs import input_rows
from rarefy.core.calls import first_input
from rarefy.core.evidence import Evidence, Need
from rarefy.core.site import Site


@dataclass(frozen=True)
class _Shared:
    """What was made of the last input seen: layers that read one tensor share it. Holding `x` keeps its id taken."""

    key: tuple[int, int]
    x: Any
    rows: Any


class Collection:
    """What some sites have seen so far. real: which tokens of the current batch are no padding."""

    def __init__(self, sites: Sequence[Site], needs: frozenset[Need], seed: int) -> None:
        self.sites = sites
        self.sums = Accumulators([site.name for site in sites], needs, seed)
        self.real: Tensor | None = None
        self.last = _Shared((0, 0), None, None)

    def hook(self, site: Site) -> Callable[..., None]:
        def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = first_input(args, kwargs)
            key = (id(x), x._version)  # the version tells a tensor that was changed in place
            if key != self.last.key or isinstance(module, nn.Conv2d):
                self.last = _Shared(key, x, input_rows(module, x, self.real))
            self.sums.add(site.name, self.last.rows, what=self.last)

        return see

    def visit(self, visit: Visit, regional: dict[str, Tensor]) -> None:
        """Hands over the evidence of each site, with the gradients of its block where they were asked for."""
        self.last = _Shared((0, 0), None, None)  # its rows are not needed while the sites are solved
        for site in self.sites:
            found = self.sums.take(site.name, site.groups)
            more = {Need.REGIONAL_GRADIENT: regional[site.name]} if site.name in regional else {}
            visit(site, Evidence(site.name, {**found.collected, **more}, found.tokens, found.seed))


@contextmanager
def collecting(sites: Sequence[Site], needs: frozenset[Need], seed: int) -> Iterator[Collection]:
    """Hooks on the sites that fill accumulators while the context is open."""
    collection = Collection(sites, needs, seed)
    with ExitStack() as stack:
        for site in sites:
            for module in site.modules:
                hook = module.register_forward_pre_hook(collection.hook(site), with_kwargs=True)
                stack.callback(hook.remove)
        yield collection
