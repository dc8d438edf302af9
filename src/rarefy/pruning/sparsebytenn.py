"""Blocks of neighbouring output channels that share an input, after the channels were put into an order that suits."""

from typing import Any

import torch
from torch import Tensor, nn

from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.protocols import Allocation
from rarefy.core.registry import method
from rarefy.patterns.block import Block
from rarefy.pruning.channel_spaces import channel_spaces, reorder
from rarefy.pruning.one_shot import OneShot
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.scored import Scored


@method("sparsebytenn", source="arXiv:2310.05883, section 3.1", protocols=("pattern", "score"))
def sparsebytenn(*, block: int = 4, allocation: Allocation = Uniform()) -> OneShot:
    """Keeps blocks of `block` output channels of one input by magnitude; call `rearrange_channels` before.

    Differs: the paper prunes step by step with training in between and gives no block size; this is one shot.
    """
    return OneShot(Scored(Magnitude()), Block(block, 1), allocation, ranking=Magnitude())


def rearrange_channels(model: nn.Module, example_inputs: Any, *, sparsity: float, block: int = 4) -> float:
    """Puts channels into an order in which blocks keep more weight, in place; the model computes the same as before.

    The order of a layer's output channels and of everything that reads them (through additions too) changes together.
    A layer keeps its order where no better one was found. Returns the squared weight that blocks of `block` output
    channels keep at this sparsity, after rearranging over before.

    example_inputs: a tensor, a tuple of positional or a dict of keyword arguments.
    Source: arXiv:2310.05883, section 3.2 (whole-network rearrangement).
    Differs: the paper does not say how similar channels are found; here each block takes the channel with most weight
    left and those that are large in the same places.
    """
    density = density_of(sparsity)
    keywords = dict(example_inputs) if isinstance(example_inputs, dict) else {}
    given = example_inputs if isinstance(example_inputs, tuple) else () if keywords else (example_inputs,)
    before = after = 0.0
    for space in channel_spaces(model, given, keywords):
        if space.size % block:
            continue
        rows = torch.cat([weight.detach().flatten(1).float() for weight in space.makers], dim=1)
        order = similar_together(rows, block)
        old, new = _kept(space.makers, None, block, density), _kept(space.makers, order, block, density)
        before += old
        after += max(old, new)
        if new > old:
            reorder(space, order)
    return after / before if before else 1.0


def similar_together(rows: Tensor, block: int) -> Tensor:
    """An order of the rows (channels, weights) in which each run of `block` rows is alike: (channels).

    Alike is the inner product of squared weights: two rows that are large in the same places.
    """
    squares = rows.square()
    alike = squares @ squares.T
    left = torch.ones(len(rows), dtype=torch.bool)
    order: list[int] = []
    while bool(left.any()):
        first = int(torch.where(left, squares.sum(1), -1.0).argmax())
        left[first] = False
        likely = torch.where(left, alike[first], -1.0).topk(min(block - 1, int(left.sum()))).indices
        left[likely] = False
        order += [first, *likely.tolist()]
    return torch.tensor(order)


def _kept(weights: list[Tensor], order: Tensor | None, block: int, density: float) -> float:
    """The squared weight that is left after pruning in blocks."""
    total = 0.0
    for weight in weights:
        rows = weight.detach().flatten(1).float()
        rows = rows if order is None else rows[order]
        total += float(rows[Block(block, 1).select(rows.abs(), density)].square().sum())
    return total
