"""Prune-and-regrow of a packed weight: the masks of the dense weight, from blocks of rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.shapes import Mask, Scores
from rarefy.patterns.block import Block
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.training.offers import Offers, Values, row_blocks
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.streamed_growth import Choose, exchange, exchange_rows

FIRST = 1e30  # above every score: what has survived stays


def ranked(scores: Scores, stay: Mask, mask: Mask, *, returns: bool) -> Scores:
    """By which a pattern chooses: what stays first, what was dropped last unless it may return by its score."""
    rank = torch.where(stay, FIRST, scores)
    return rank if returns else rank.masked_fill_(mask & ~stay, torch.finfo(rank.dtype).min)


def streams(state: WeightState) -> bool:
    """Whether the pattern's choice needs no dense tensor: entries compete over the weight, or within some rows, or
    tiles do over the weight."""
    pattern = state.pattern
    return pattern.span is not None or isinstance(pattern, Layerwise | Rowwise | FanIn | Block)


@dataclass(frozen=True)
class PackedChange:
    """One change of one weight. stay: which of the entries do; None where each part of the pattern keeps its largest,
    as many as the density `remain` allows."""

    run: Run
    state: WeightState
    stay: Tensor | None
    remain: float
    returns: bool

    def __call__(self, offers: Offers, begin: Values | None) -> None:
        run, state, pattern = self.run, self.state, self.state.pattern
        if isinstance(pattern, Layerwise):
            assert self.stay is not None
            exchange(run, state, self.stay, state.count, offers, begin, returns=self.returns)
        elif isinstance(pattern, Block):
            chosen = self._tiles(pattern, offers)
            exchange_rows(run, state, chosen, offers, begin, multiple=pattern.r, scored=False)
        else:
            exchange_rows(run, state, self._next, offers, begin, multiple=pattern.granularity[0])

    def _next(self, rows: range, entries: slice, here: Tensor, scores: Tensor) -> Mask:
        if self.stay is None:
            size = self._size(entries, here, scores)
            stay = self.state.pattern.select(size, self.remain) & (size >= 0.0)
        else:
            stay = torch.zeros(scores.shape, dtype=torch.bool)
            stay.view(-1)[here] = self.stay[entries]
        rank = ranked(scores, stay, _mask(here, scores), returns=self.returns)
        return self.state.pattern.select(rank, self.state.density)

    def _tiles(self, pattern: Block, offers: Offers) -> Choose:
        """Tiles compete over the whole weight: one number of each is held."""
        topology, width = self.state.packed, self.state.shape[1]
        assert topology is not None
        sizes = []
        for rows in row_blocks(self.state, pattern.r):
            sizes.append(pattern.pooled(self._size(*topology.part(rows), torch.empty(len(rows), width))))
        stay, pooled = pattern.best(torch.cat(sizes), self.remain), []
        for rows, _, scores in offers.scored(pattern.r):
            mask = _mask(topology.part(rows)[1], scores.view(-1, width))
            kept = pattern.spread(stay[rows.start // pattern.r : rows.stop // pattern.r]) & mask
            pooled.append(pattern.pooled(ranked(scores.view(-1, width), kept, mask, returns=self.returns)))
        tiles = pattern.best(torch.cat(pooled), self.state.density)
        return lambda rows, *_: pattern.spread(tiles[rows.start // pattern.r : rows.stop // pattern.r])

    def _size(self, entries: slice, here: Tensor, like: Tensor) -> Tensor:
        """Magnitudes of the kept weights of some rows, -1 elsewhere."""
        size = torch.full_like(like, -1.0)
        size.view(-1)[here] = self.state.weight.parameter.detach()[entries].abs().float()
        return size


def _mask(here: Tensor, like: Tensor) -> Mask:
    mask = torch.zeros(like.shape, dtype=torch.bool)
    mask.view(-1)[here] = True
    return mask
