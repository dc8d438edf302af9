"""Putting channels into an order in which N:M keeps more of the weights; the model computes the same as before."""

from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.patterns.nm import NM
from rarefy.patterns.parse import parse_pattern
from rarefy.pruning.channel_spaces import Space, channel_spaces, reorder

_AT_ONCE = 2**25  # entries of one batch of tried exchanges


def permute_channels(
    model: nn.Module, example_inputs: Any, *, pattern: str | NM = "2:4", passes: int = 100, seed: int = 0
) -> float:
    """Reorders the channels between layers, in place, so that N:M along the inputs keeps more magnitude.

    The inputs of all layers that read a space of channels (the hidden units of a feed-forward block, the channels
    between 1x1 convolutions, a residual stream where nothing outside reads it) are exchanged between groups while
    that raises the sum of |w| that N:M keeps; what makes the channels is reordered to match. Linear layers, 1x1
    convolutions, elementwise operations, sums, products and layer and batch norms are followed, all else stays.
    Returns the kept magnitude after over before, over the layers that could be helped.

    example_inputs: a tensor, a tuple of positional or a dict of keyword arguments. passes: over random pairs of groups.
    Source: Pool and Yu 2021 (NeurIPS), channel permutations for N:M sparsity, section 3; as a step before pruning
    also Zhang et al. 2024 (RIA), section 3.2.
    Differs: the search is by best exchanges between random pairs of groups, many pairs at once, not by exhaustive
    search over pairs of stripes.
    """
    wanted = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    if not isinstance(wanted, NM):
        raise SparsityError(f"permute_channels: {pattern} is no N:M pattern; use 2:4 for example")
    keywords = dict(example_inputs) if isinstance(example_inputs, dict) else {}
    given = example_inputs if isinstance(example_inputs, tuple) else () if keywords else (example_inputs,)
    before = after = 0.0
    for space in channel_spaces(model, given, keywords, linear=True):
        readers = _readers(space)
        if not readers or space.size % wanted.m:
            continue
        sizes = torch.cat([weight.detach().flatten(1).float().abs() for weight in readers])
        order = better_order(sizes, wanted, passes, torch.Generator().manual_seed(seed))
        old, new = _kept(sizes, wanted), _kept(sizes[:, order], wanted)
        before, after = before + old, after + max(old, new)
        if new > old:
            reorder(space, order)
    return after / before if before else 1.0


def _readers(space: Space) -> list[Tensor]:
    """Weights that are pruned along these channels: linear layers and 1x1 convolutions, each once."""
    found = {t.data_ptr(): t for t in space.columns if t.data_ptr() not in space.tables and t[0, 0].numel() == 1}
    return list(found.values())


def _kept(sizes: Tensor, pattern: NM) -> float:
    return float(sizes.reshape(-1, pattern.m).topk(pattern.n, dim=1).values.sum(dtype=torch.float64))


def better_order(sizes: Tensor, pattern: NM, passes: int, generator: torch.Generator) -> Tensor:
    """An order of the columns (n,) of |W| (rows, n) in which N:M keeps more, by exchanges between groups.

    Each pass pairs the groups at random and makes the best exchange of each pair if it helps; it ends after ten
    passes without one.
    """
    order = torch.arange(sizes.shape[1]).view(-1, pattern.m)
    idle = 0
    for _ in range(passes):
        pairs = torch.randperm(len(order), generator=generator)[: len(order) // 2 * 2].view(-1, 2)
        chunk = max(1, _AT_ONCE // (sizes.shape[0] * pattern.m**3))
        made = sum(_exchange(sizes, order, part, pattern.n) for part in pairs.split(chunk)) if len(pairs) else 0
        idle = 0 if made else idle + 1
        if idle == 10:
            break
    return order.flatten()


def _exchange(sizes: Tensor, order: Tensor, pairs: Tensor, n: int) -> int:
    """The best exchange of one column each, for every pair of groups, in place; how many were made."""
    m = order.shape[1]
    a, b = (sizes[:, order[pairs[:, side]]].permute(1, 2, 0) for side in (0, 1))  # (pairs, m, rows)

    def kept(groups: Tensor) -> Tensor:
        return groups.topk(n, dim=-2).values.sum((-2, -1))

    def swapped(group: Tensor, other: Tensor) -> Tensor:
        """(pairs, i, j, m, rows): `group` with its column i replaced by column j of `other`."""
        tried = group[:, None, None].repeat(1, m, m, 1, 1)
        at = torch.arange(m)
        tried[:, at, :, at] = other.expand(m, -1, -1, -1)
        return tried

    gain = kept(swapped(a, b)) + kept(swapped(b, a)).transpose(1, 2) - (kept(a) + kept(b))[:, None, None]
    best, at = gain.flatten(1).max(1)
    take = best > 1e-6 * kept(a).clamp_min(1e-30)
    rows, i, j = pairs[take], at[take] // m, at[take] % m
    first, second = order[rows[:, 0], i].clone(), order[rows[:, 1], j].clone()
    order[rows[:, 0], i], order[rows[:, 1], j] = second, first
    return int(take.sum())
