"""What every target draws its cases from: sizes near the edges, supports of every kind, values that floats allow."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
from guard import guarded
from torch import Tensor

from rarefy.core.errors import RarefyError

_EDGES = (1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 255, 256, 257)
_OURS = ("pack", "mapped file", "compressed rows", "decoder", "program", "embed")


def size(rng: random.Random, most: int, least: int = 0) -> int:
    """Often near a tile's edge, often small, sometimes anything up to `most`."""
    kind = rng.random()
    if kind < 0.5:
        fitting = [edge for edge in _EDGES if least <= edge <= most]
        return rng.choice(fitting) if fitting else least
    return rng.randint(least, min(most, 12) if kind < 0.75 else most)


def seeded(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(40))


def normal(rng: random.Random, *shape: int) -> Tensor:
    """Standard normal, guarded."""
    return guarded(torch.randn(*shape, generator=seeded(rng)))


def support(rng: random.Random, out: int, width: int) -> Tensor:
    """A mask (out, in): any density, N:M, rows of one length, blocks, empty rows and columns, one row."""
    make = seeded(rng)
    kind = rng.choice(("any", "any", "any", "n:m", "ways", "rows", "blocks", "gaps", "one row", "none", "all"))
    mask = torch.rand(out, width, generator=make) < rng.choice((0.02, 0.1, 0.3, 0.5, 0.7, 0.95, rng.random()))
    if kind in ("none", "all"):
        mask.fill_(kind == "all")
    elif kind == "one row" and out:
        mask.zero_()
        mask[rng.randrange(out) : out if rng.random() < 0.1 else None][:1] = True
    elif kind == "gaps":
        mask[:: rng.randint(1, 4)] = False
        mask[:, rng.randint(0, width) :] = False
    elif kind == "blocks":
        high, wide = rng.choice(((4, 1), (1, 4), (16, 1), (2, 1), (1, 16), (8, 4)))
        small = torch.rand(-(-out // high), -(-width // wide), generator=make) < rng.random()
        mask = small.repeat_interleave(high, 0).repeat_interleave(wide, 1)[:out, :width]
    elif kind in ("n:m", "rows"):
        m = (
            width
            if kind == "rows" or width == 0
            else rng.choice([m for m in (2, 4, 8, 16, width) if width % m == 0] or [width])
        )
        order = torch.rand(out, width // max(1, m), m, generator=make).argsort(-1).argsort(-1)
        mask = (order < rng.randint(0, max(0, m))).view(out, width) if width else mask
    elif kind == "ways":
        mask = _ways(rng, out, width)
    return mask


def _ways(rng: random.Random, out: int, width: int) -> Tensor:
    """Grouped N:M: every row uses each way to keep N of M inputs equally often, where the width allows that."""
    from rarefy.patterns.grouped_nm import all_ways

    n, m = rng.choice(((2, 4), (1, 4), (1, 2), (2, 8)))
    ways = all_ways(n, m)
    if width == 0 or width % ways.numel():
        return torch.ones(out, width, dtype=torch.bool)
    rows = [ways[torch.randperm(len(ways), generator=seeded(rng))].reshape(-1) for _ in range(out)]
    return torch.stack(rows).repeat(1, width // ways.numel()).bool() if rows else torch.zeros(0, width).bool()


def spoil(rng: random.Random, x: Tensor) -> Tensor:
    """x with a few entries that are not finite, or denormal; gives the mask of the former."""
    bad = torch.zeros(x.shape, dtype=torch.bool)
    for _ in range(rng.randint(1, 3) if x.numel() else 0):
        value = rng.choice((float("nan"), float("inf"), -float("inf"), 1e-40, -0.0, 3e38))
        place = rng.randrange(x.numel())
        x[torch.unravel_index(torch.tensor(place), x.shape)] = value
        bad.view(-1)[place] = not math.isfinite(value)
    return bad


def threads(rng: random.Random) -> int:
    count = rng.choice((1, 1, 2, 3))
    torch.set_num_threads(count)
    return count


@contextmanager
def refusals() -> Iterator[None]:
    """Lets the library say no: with an error of its own, or one that its native module raises with a reason."""
    with suppress(RarefyError):
        try:
            yield
        except (ValueError, IndexError) as error:
            if isinstance(error, RarefyError) or not str(error).startswith(_OURS):
                raise
        except NotImplementedError as error:  # torch's own, for a layout or device without an implementation
            if "Could not run 'rarefy::" not in str(error):
                raise
