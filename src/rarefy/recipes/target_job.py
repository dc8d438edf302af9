"""What a budget in milliseconds is spent on, and the ways to spend it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.site import Site
from rarefy.patterns.fixed import fixed_density
from rarefy.pruning import OneShot
from rarefy.pruning.resolve import resolve_allocation
from rarefy.recipes.target_losses import SOLVED, Losses
from rarefy.recipes.target_search import Allocate, Densities, LeastLoss
from rarefy.recipes.target_times import LayerTimes, Speed, SpeedOf

LEAST_DENSITY = 0.02
_OPTIONS = 60  # densities a layer may have, in equal factors from LEAST_DENSITY to 1


@dataclass(frozen=True)
class Job:
    """What is asked. inputs: one call of the model, at which `speed` measures."""

    model: nn.Module
    one_shot: OneShot
    pattern: Pattern
    sites: Sequence[Site]
    inputs: Any
    ignore: Sequence[str]
    target: float
    speed: SpeedOf

    def off(self, speed: Speed) -> float:
        """How far a measured speed-up is from the asked one, relative to it."""
        return abs(speed.ratio / self.target - 1.0)


def solved_densities(pattern: Pattern) -> tuple[float, ...]:
    """Where the method's error is found out: the pattern's own density, or some over the range."""
    fixed = fixed_density(pattern)
    return SOLVED if fixed is None else (fixed,)


def densities_of(pattern: Pattern) -> list[float]:
    """What a layer may become, sparsest first, whole last."""
    fixed = fixed_density(pattern)
    if fixed is not None:
        return [fixed, 1.0]
    return [LEAST_DENSITY ** (1.0 - i / (_OPTIONS - 1)) for i in range(_OPTIONS)]


def layers_ms(job: Job, times: LayerTimes, densities: Mapping[str, float]) -> float:
    """The layers' times alone, added up."""
    return sum(times(site, densities[site.name]) for site in job.sites)


def least_loss(job: Job, times: LayerTimes, losses: Losses, seed: int = 0) -> LeastLoss:
    """The knapsack over (site, density), and zeros spread evenly where the model prefers that."""
    options = {site.name: [(d, times(site, d)) for d in densities_of(job.pattern)] for site in job.sites}
    free = fixed_density(job.pattern) is None
    rivals = [spread(job, name, times) for name in ("uniform", "erk")] if free else []
    return LeastLoss(job.model, job.sites, options, losses, rivals, seed)


def spread(job: Job, allocation: str | Allocation, times: LayerTimes) -> Allocate:
    """The largest overall density whose layers, spread by an allocation, are within the budget."""
    spread = resolve_allocation(allocation, job.one_shot)
    if fixed_density(job.pattern) is not None or spread.needs:
        raise SparsityError(
            f"target_speedup: allocation {type(spread).__name__} cannot be spread by time; leave it out, or name one "
            "that needs no data, like 'uniform' or 'erk', with a pattern of any density"
        )
    sites = [site for site in job.sites if times(site, 1.0) > 0]

    def at(density: float) -> Densities:
        return {**{site.name: 1.0 for site in job.sites}, **spread(sites, density, {})}

    def allocate(budget: float) -> Densities | None:
        low, high = LEAST_DENSITY, 1.0
        if layers_ms(job, times, at(low)) > budget:
            return None
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if layers_ms(job, times, at(middle)) <= budget else (low, middle)
        return at(low)

    return allocate
