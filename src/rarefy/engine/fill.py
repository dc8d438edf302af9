"""Times of a grid of layers, so that the cost model knows this machine before the first model is compiled."""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from rarefy.engine.cache import TimingCache
from rarefy.engine.plan import time_layer
from rarefy.engine.times import TimeTable

SHAPES = ((384, 384), (1536, 384), (384, 1536), (768, 768), (3072, 768), (768, 3072), (1024, 4096))
DENSITIES = (0.5, 0.3, 0.2, 0.1, 0.05)
TOKENS = (1, 4, 16, 128, 512)

Cell = tuple[tuple[int, int], float, int]


def scattered(shape: tuple[int, int], density: float, seed: int = 0) -> Tensor:
    """A random weight (out, in) whose zeros lie anywhere."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < density, weight, 0.0)


def grid(
    shapes: Sequence[tuple[int, int]] = SHAPES,
    densities: Sequence[float] = DENSITIES,
    tokens: Sequence[int] = TOKENS,
) -> Iterator[Cell]:
    """The cells to time, (shape, density, tokens)."""
    return product(shapes, densities, tokens)


def fill(cells: Sequence[Cell], cache: TimingCache, progress: Callable[[int, int], None] | None = None) -> None:
    """Times every cell that is not in the cache. Takes about 0.1 s a cell; nothing else should run meanwhile."""
    table = TimeTable(time_layer, cache)
    bias_of = {shape: torch.zeros(shape[0]) for shape, _, _ in cells}
    for done, (shape, density, tokens) in enumerate(cells):
        table.times(scattered(shape, density), bias_of[shape], tokens)
        if progress is not None:
            progress(done + 1, len(cells))
