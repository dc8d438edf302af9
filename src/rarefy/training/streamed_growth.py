"""The exchange of RigL on a packed weight: the dense gradient goes by in blocks, only its largest entries stay."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rarefy.core.topk import keep_top
from rarefy.training import optimizers
from rarefy.training.run import Run
from rarefy.training.runtime.data import replace_data
from rarefy.training.runtime.faces import Packing
from rarefy.training.runtime.topology import Move
from rarefy.training.runtime.watch import Scale
from rarefy.training.state import WeightState

_ENTRIES = 2**18  # of the dense gradient at a time: 1 MiB


def watched(state: WeightState) -> bool:
    """Whether only the kept values exist and this step's dense gradient can be had in blocks."""
    if state.packed is None:
        return False
    packing = state.weight.module.packing
    assert isinstance(packing, Packing)
    return packing.watch is not None and bool(packing.watch.seen)


def exchange(run: Run, state: WeightState, survivors: int, kept: int) -> None:
    """The `survivors` largest kept weights stay, and the largest dense gradients elsewhere come, `kept` in all.

    The masks are those of the same exchange on dense tensors: ties go to the lower index there as here.
    """
    packing = state.weight.module.packing
    assert isinstance(packing, Packing) and packing.watch is not None
    topology, parameter = packing.topology, state.weight.parameter
    stay = keep_top(parameter.detach().abs().float()[None], min(survivors, topology.nnz))[0]
    old = topology.positions
    scale = Scale()
    blocks = _blocks(packing, old, parameter.grad, scale)
    grads, places = largest(blocks, old[stay], kept - int(stay.count_nonzero()))
    known = topology.entries(places)
    leave = ~stay
    leave[known[known >= 0]] = False  # just dropped, and grown again at once: it has never been away
    fresh = known < 0
    move = topology.edit(leave.nonzero().flatten(), places[fresh])
    _carry(run, state, move, scale.factor * grads[fresh])
    gone = old[leave]
    del old
    run.renew(state, lambda index: torch.isin(index, gone), places[fresh])
    if state.tried is not None:
        state.tried |= topology.bits


def largest(blocks: Iterator[tuple[int, Tensor]], without: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(gradients, flat positions) of the `count` entries of largest magnitude that are not in `without` (ascending).

    blocks: (first flat position, gradients (entries,)) in ascending order; ties go to the lower position.
    """
    grads, places = torch.empty(0), torch.empty(0, dtype=torch.long)
    least = -1.0  # what an entry must exceed: entries further on lose every tie
    for first, block in blocks:
        size = block.abs()
        low, high = torch.searchsorted(without, torch.tensor([first, first + block.numel()])).tolist()
        size[without[low:high] - first] = -1.0
        here = (size > least).nonzero().flatten()
        grads, places = torch.cat([grads, block[here]]), torch.cat([places, here + first])
        if grads.numel() > 2 * count:
            grads, places = _best(grads, places, count)
            least = float(grads.abs().min()) if count else math.inf
    return _best(grads, places, count)


def _best(grads: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    best = keep_top(grads.abs()[None], min(count, grads.numel()))[0]
    return grads[best], places[best]


def _blocks(packing: Packing, positions: Tensor, now: Tensor | None, scale: Scale) -> Iterator[tuple[int, Tensor]]:
    """(first flat position, gradients) of some rows at a time; scale: sees the kept ones beside what they are now."""
    assert packing.watch is not None
    width = packing.topology.shape[1]
    for rows, grad in packing.watch.blocks(max(1, _ENTRIES // width)):
        first, flat = rows.start * width, grad.flatten()
        if now is not None:
            low, high = torch.searchsorted(positions, torch.tensor([first, first + flat.numel()])).tolist()
            scale.see(flat[positions[low:high] - first], now[low:high])
        yield first, flat


def _carry(run: Run, state: WeightState, move: Move, grads: Tensor) -> None:
    """Values, gradient and optimizer memory follow their entries; fresh ones begin at zero with their own gradient.

    grads: of the fresh entries, by their position.
    """
    parameter = state.weight.parameter
    for name, value in list(optimizers.entries(run.optimizer, parameter)):
        run.optimizer.state[parameter][name] = move.carry(value, optimizers.begin_of(run.optimizer, parameter, name))
    grad = parameter.grad
    values = move.carry(parameter.detach())
    replace_data(parameter, values)
    if grad is not None:
        new = move.carry(grad)
        new[move.source < 0] = grads.to(new.dtype)
        parameter.grad = new
