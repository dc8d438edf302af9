"""Ratios of windows for each block under a latency limit, by an evolutionary search."""

import math
import random
from collections.abc import Callable, Sequence

from rarefy.activations.evolve import evolve
from rarefy.activations.images.sparsevit import RATIOS, WindowPruning
from rarefy.core.errors import SparsityError

Ratios = tuple[float, ...]


def search_windows(
    pruning: WindowPruning,
    loss: Callable[[], float],
    latency: Callable[[Sequence[float]], float],
    limit: float,
    *,
    generations: int = 10,
    population: int = 20,
    seed: int = 0,
) -> Ratios:
    """The ratios (0 to 80 % in tenths, rising within a stage) of smallest loss whose latency is within the limit.

    loss: of the model as it is set then, on data that were not trained on. latency: of ratios, in the unit of `limit`,
    for instance `pruning.latency(example)` in milliseconds. The ratios found are set. Nothing beyond the limit is
    ever evaluated; a latency is asked once for the same ratios.
    Raises SparsityError where even 80 % in all blocks takes longer than the limit.
    """
    most = max(RATIOS)
    steps = len(RATIOS) - 1
    times: dict[Ratios, float] = {}
    losses: dict[Ratios, float] = {}

    def snapped(genes: Ratios) -> Ratios:
        """Genes in [0, 1] as ratios on the grid."""
        rest, found = list(genes), []
        for stage in pruning.stages:
            found += sorted(RATIOS[round(gene * steps)] for gene in rest[: len(stage)])
            del rest[: len(stage)]
        return tuple(found)

    def within(ratios: Ratios) -> bool:
        if ratios not in times:
            times[ratios] = latency(ratios)
        return times[ratios] <= limit

    def cost(genes: Ratios) -> float:
        ratios = snapped(genes)
        if not within(ratios):
            return math.inf
        if ratios not in losses:
            pruning.ratios = list(ratios)
            losses[ratios] = float(loss())
        return losses[ratios]

    blocks = len(pruning.blocks)
    if not within(snapped((1.0,) * blocks)):
        raise SparsityError(
            f"search_windows: {most:.0%} of the windows left out in all blocks takes {times[(most,) * blocks]:.4g}, "
            f"over the limit of {limit:.4g}; raise the limit"
        )
    rng = random.Random(seed)
    start: list[Ratios] = [(i / steps,) * blocks for i in range(steps + 1)]
    start += [tuple(rng.random() for _ in range(blocks)) for _ in range(population)]
    best = evolve(cost, start, generations=generations, population=population, spread=1 / steps, rate=0.3, seed=seed)
    pruning.ratios = list(snapped(best))
    return snapped(best)
