"""Searches over allocations: the honest baseline of every clever rule."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rarefy.allocations.budget import spread
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method

LossOf = Callable[[Mapping[str, float]], float]


def within_budget(sizes: Mapping[str, int], wished: Mapping[str, float], density: float) -> dict[str, float]:
    """Densities in proportion to those wished, none above 1, that meet the budget exactly."""
    least = 1e-3  # so that no layer is out of the running for good
    return spread(sizes, {name: max(least, wish) for name, wish in wished.items()}, density)


@method(
    "random-search",
    role="search",
    source="Bergstra and Bengio 2012, JMLR 13 (random search)",
)
@dataclass(frozen=True)
class RandomSearch:
    """Draws allocations within the budget and takes the one with the least loss; uniform is among them.

    The first trial is uniform; the others scale each layer's density by 4^(width * z), z normal.
    """

    trials: int = 50
    width: float = 0.5

    def __post_init__(self) -> None:
        if self.trials < 1 or self.width < 0:
            raise SparsityError(f"{self}: needs trials >= 1 and width >= 0")

    def search(self, sizes: Mapping[str, int], density: float, loss_of: LossOf, seed: int) -> dict[str, float]:
        draw = random.Random(seed)
        best = within_budget(sizes, dict.fromkeys(sizes, density), density)
        least = loss_of(best)
        for _ in range(self.trials - 1):
            tried = _moved(sizes, dict.fromkeys(sizes, density), density, self.width, draw)
            loss = loss_of(tried)
            if loss < least:
                best, least = tried, loss
        return best


@method(
    "evolution",
    role="search",
    source="Sieberling et al. 2024 (EvoPress), arXiv:2410.14649, algorithm 1; Real et al. 2019, arXiv:1802.01548",
)
@dataclass(frozen=True)
class Evolution:
    """A (1 + children) evolution: the best allocation so far is mutated, and the best of a generation replaces it.

    A mutation takes density from some layers and gives it to others, the budget staying exact; its size shrinks over
    the generations. It starts from uniform.
    Differs: EvoPress switches levels of a fixed grid and looks at offspring on growing samples of data; here densities
    are continuous and every offspring is looked at on all of the data.
    """

    generations: int = 20
    children: int = 8
    width: float = 0.5

    def __post_init__(self) -> None:
        if min(self.generations, self.children) < 1 or self.width <= 0:
            raise SparsityError(f"{self}: needs generations and children of at least 1 and width > 0")

    def search(self, sizes: Mapping[str, int], density: float, loss_of: LossOf, seed: int) -> dict[str, float]:
        draw = random.Random(seed)
        best = within_budget(sizes, dict.fromkeys(sizes, density), density)
        least = loss_of(best)
        for generation in range(self.generations):
            width = self.width * (1.0 - 0.9 * generation / self.generations)
            offspring = [_moved(sizes, best, density, width, draw) for _ in range(self.children)]
            losses = [loss_of(child) for child in offspring]
            if min(losses) < least:
                least, best = min(losses), offspring[losses.index(min(losses))]
        return best


def _moved(
    sizes: Mapping[str, int], at: Mapping[str, float], density: float, width: float, draw: random.Random
) -> dict[str, float]:
    wished = {name: value * 2.0 ** (width * draw.gauss(0.0, 2.0)) for name, value in at.items()}
    return within_budget(sizes, wished, density)
