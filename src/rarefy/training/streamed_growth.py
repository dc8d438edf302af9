"""Growth by gradient on a packed weight: the dense gradient goes by in blocks, only its largest entries stay."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rarefy.core.topk import keep_top
from rarefy.training import optimizers
from rarefy.training.run import SOURCE, Run
from rarefy.training.runtime.data import replace_data
from rarefy.training.runtime.faces import Packing
from rarefy.training.runtime.topology import Move
from rarefy.training.runtime.watch import Scale
from rarefy.training.state import WeightState

_ENTRIES = 2**18  # of the dense gradient at a time: 1 MiB

Choose = Callable[[range, slice, Tensor, Tensor], Tensor]
"""(rows, their entries, where those lie in the block, the scores of the block `(rows, n)`) -> their next mask."""

Score = Callable[[int, Tensor], Tensor]
"""(flat position, the gradients from there on, as they are now) -> scores that are not negative; a new tensor."""


def watched(state: WeightState) -> bool:
    """Whether only the kept values exist, any entry may be grown, and this step's dense gradient comes in blocks."""
    if state.packed is None or SOURCE in state.extra:
        return False
    packing = state.weight.module.packing
    assert isinstance(packing, Packing)
    return packing.watch is not None and bool(packing.watch.seen)


def exchange(run: Run, state: WeightState, survivors: int, kept: int, score: Score | None = None) -> None:
    """The `survivors` largest kept weights stay, and the best scores elsewhere come, `kept` in all.

    score: of the gradient, its size without one. The masks are those of the same exchange on dense tensors: ties go to
    the lower index there as here.
    """
    packing, parameter = _packing(state), state.weight.parameter
    topology = packing.topology
    stay = keep_top(parameter.detach().abs().float()[None], min(survivors, topology.nnz))[0]
    old, scale = topology.positions, Scale()
    blocks = _scored(packing, old, parameter.grad, scale, score)
    grads, places = largest(blocks, old[stay], kept - int(stay.count_nonzero()))
    known = topology.entries(places)
    leave = ~stay
    leave[known[known >= 0]] = False  # just dropped, and grown again at once: it has never been away
    fresh = known < 0
    _become(run, state, leave, places[fresh], scale.factor * grads[fresh])


def exchange_rows(run: Run, state: WeightState, choose: Choose, score: Score | None = None) -> None:
    """The next mask where rows do not compete, some rows at a time; score: as for `exchange`."""
    packing, parameter = _packing(state), state.weight.parameter
    width, old, scale = packing.topology.shape[1], packing.topology.positions, Scale()
    leave, places, grads, low = [], [], [], 0
    for first, flat, scores in _scored(packing, old, parameter.grad, scale, score):
        high = int(torch.searchsorted(old, first + flat.numel()))
        here, rows = old[low:high] - first, range(first // width, (first + flat.numel()) // width)
        keep = choose(rows, slice(low, high), here, scores.view(-1, width)).flatten()
        leave.append(~keep[here])
        keep[here] = False
        fresh = keep.nonzero().flatten()
        places.append(fresh + first)
        grads.append(flat[fresh])
        low = high
    _become(run, state, torch.cat(leave), torch.cat(places), scale.factor * torch.cat(grads))


def salient(state: WeightState, count: int) -> Tensor:
    """How many of the `count` largest dense gradients of entries that are not kept lie in each row."""
    packing = _packing(state)
    rows, width = packing.topology.shape
    old = packing.topology.positions
    blocks = _scored(packing, old, None, Scale(), None)
    places = largest(blocks, old, min(count, rows * width - len(old)))[1]
    return torch.bincount(places // width, minlength=rows)


def _packing(state: WeightState) -> Packing:
    packing = state.weight.module.packing
    assert isinstance(packing, Packing) and packing.watch is not None
    return packing


def _become(run: Run, state: WeightState, leave: Tensor, places: Tensor, grads: Tensor) -> None:
    """leave: which entries go; places: flat positions of fresh ones, ascending; grads: theirs."""
    topology = _packing(state).topology
    gone = topology.positions[leave]
    _carry(run, state, topology.edit(leave.nonzero().flatten(), places), grads)
    run.renew(state, lambda index: torch.isin(index, gone), places)
    run.note_collapse(state)
    if state.tried is not None:
        state.tried |= topology.bits


def largest(blocks: Iterator[tuple[int, Tensor, Tensor]], without: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(gradients, flat positions) of the `count` entries of largest score that are not in `without` (ascending).

    blocks: (first flat position, gradients (entries,), scores (entries,)) in ascending order; ties go to the lower
    position.
    """
    best, held, places = torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.long)
    least = -1.0  # what an entry must exceed: entries further on lose every tie
    for first, grads, scores in blocks:
        low, high = torch.searchsorted(without, torch.tensor([first, first + grads.numel()])).tolist()
        scores[without[low:high] - first] = -1.0
        here = (scores > least).nonzero().flatten()
        best, held = torch.cat([best, scores[here]]), torch.cat([held, grads[here]])
        places = torch.cat([places, here + first])
        if len(best) > 2 * count:
            best, held, places = _best(best, held, places, count)
            least = float(best.min()) if count else math.inf
    return _best(best, held, places, count)[1:]


def _best(scores: Tensor, grads: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    best = keep_top(scores[None], min(count, len(scores)))[0]
    return scores[best], grads[best], places[best]


def _scored(
    packing: Packing, positions: Tensor, now: Tensor | None, scale: Scale, score: Score | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first flat position, gradients, scores); where these depend on how the gradient was scaled, it goes by twice."""
    if score is None:
        for first, flat in _blocks(packing, positions, now, scale):
            yield first, flat, flat.abs().float()
        return
    for _ in _blocks(packing, positions, now, scale):
        pass
    for first, flat in _blocks(packing, positions, None, scale):
        yield first, flat, score(first, scale.factor * flat).float()


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
