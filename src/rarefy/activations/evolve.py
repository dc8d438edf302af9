"""A small evolutionary search over vectors in [0, 1]: the better half survives, and its children differ a little."""

import random
from collections.abc import Callable, Sequence

Genes = tuple[float, ...]


def evolve(
    loss: Callable[[Genes], float],
    start: Sequence[Genes],
    *,
    generations: int,
    population: int,
    spread: float = 0.1,
    rate: float = 0.3,
    seed: int = 0,
) -> Genes:
    """The vector with the smallest loss found; never worse than any of `start`.

    A child takes each gene from either parent and changes it with probability `rate` by a normal step of `spread`.
    """
    rng = random.Random(seed)
    known = {genes: loss(genes) for genes in dict.fromkeys(start)}
    for _ in range(generations):
        parents = sorted(known, key=known.__getitem__)[: max(2, population // 2)]
        for _ in range(population):
            child = _child(rng, rng.choice(parents), rng.choice(parents), spread, rate)
            if child not in known:
                known[child] = loss(child)
    return min(known, key=known.__getitem__)


def _child(rng: random.Random, a: Genes, b: Genes, spread: float, rate: float) -> Genes:
    mixed = [rng.choice(pair) for pair in zip(a, b, strict=True)]
    return tuple(min(1.0, max(0.0, g + rng.gauss(0.0, spread))) if rng.random() < rate else g for g in mixed)
