"""Changes of a packed weight's support: what is offered goes by in blocks of rows, only the chosen entries stay."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rarefy.core.topk import keep_top
from rarefy.training import optimizers
from rarefy.training.offers import ByGradient, Offers, Values, packing_of
from rarefy.training.run import Run
from rarefy.training.runtime.data import replace_data
from rarefy.training.runtime.move import Move
from rarefy.training.runtime.places import put_at
from rarefy.training.runtime.topology import Topology
from rarefy.training.state import WeightState

Choose = Callable[[range, slice, Tensor, Tensor], Tensor]
"""(rows, their entries, where those lie in the block, the scores of the block `(rows, n)`) -> their next mask."""


def exchange(
    run: Run,
    state: WeightState,
    stay: Tensor,
    kept: int,
    offers: Offers,
    begin: Values | None = None,
    *,
    returns: bool = True,
) -> None:
    """The kept weights `stay` (of the entries) stay, and the best offers elsewhere come, `kept` in all.

    begin: what fresh ones begin with, 0 without it; returns: whether what is dropped may be chosen at once by its own
    score, else it comes back only where nothing else is left. The masks are those of the same exchange on dense
    tensors: ties go to the lower index there as here.
    """
    topology = packing_of(state).topology
    topology.let_go()

    def blocks() -> Iterator[tuple[int, Tensor, Tensor]]:
        for rows, grads, scores in offers.scored():
            entries, here = topology.part(rows)
            scores[here[stay[entries]] if returns else here] = -1.0
            yield rows.start * state.shape[1], grads, scores

    leave, count = ~stay, kept - int(stay.count_nonzero())
    grads, places = largest(blocks(), count, topology.places_type)
    if returns:
        grads, places = _fresh(topology, leave, grads, places)
    elif len(places) < count:
        leave[leave.nonzero().flatten()[: count - len(places)]] = False
    _become(run, state, leave, places, offers.factor * grads, begin)


def exchange_rows(
    run: Run,
    state: WeightState,
    choose: Choose,
    offers: Offers,
    begin: Values | None = None,
    *,
    multiple: int = 1,
    scored: bool = True,
) -> None:
    """The next mask, some rows at a time, always a multiple of `multiple`; begin: as for `exchange`.

    scored: whether `choose` looks at the scores, which are offered once; else it is given the gradients.
    """
    topology, width = packing_of(state).topology, state.shape[1]
    topology.let_go()
    plain = ((rows, grads, grads) for rows, grads in offers.plain(multiple))
    leave, places, found = [], [], []
    for rows, grads, scores in offers.scored(multiple) if scored else plain:
        entries, here = topology.part(rows)
        keep = choose(rows, entries, here, scores.view(-1, width)).flatten()
        leave.append(~keep[here])
        keep[here] = False
        fresh = keep.nonzero().flatten()
        places.append((fresh + rows.start * width).to(topology.places_type))
        found.append(grads[fresh])
    _become(run, state, torch.cat(leave), torch.cat(places), offers.factor * torch.cat(found), begin)


def _fresh(topology: Topology, leave: Tensor, grads: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Without what was just dropped and is grown again at once: that has never been away, and does not leave."""
    known = topology.entries(places)
    leave[known[known >= 0]] = False
    return grads[known < 0], places[known < 0]


def salient(state: WeightState, count: int) -> Tensor:
    """How many of the `count` largest dense gradients of entries that are not kept lie in each row."""
    rows, width = state.shape
    topology = packing_of(state).topology

    def blocks() -> Iterator[tuple[int, Tensor, Tensor]]:
        for some, grads, scores in ByGradient(state).scored():
            scores[topology.part(some)[1]] = -1.0
            yield some.start * width, grads, scores

    return torch.bincount(largest(blocks(), count, topology.places_type)[1] // width, minlength=rows)


def _become(run: Run, state: WeightState, leave: Tensor, places: Tensor, grads: Tensor, begin: Values | None) -> None:
    """leave: which entries go; places: flat positions of fresh ones, ascending; grads: theirs."""
    topology = packing_of(state).topology
    values = None if begin is None else begin(places)
    run.renew(state, lambda index: leave[run.entries(state, index)], places)
    _carry(run, state, topology.edit(leave.nonzero().flatten(), places), grads, values)
    run.note_collapse(state)
    if state.tried is not None:
        topology.mark(state.tried)


def largest(
    blocks: Iterator[tuple[int, Tensor, Tensor]], count: int, kind: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    """(gradients, flat positions) of the `count` entries of largest score, or of all whose score is not negative.

    blocks: (first flat position, gradients (entries,), scores (entries,)) in ascending order; ties go to the lower
    position. kind: of the positions.
    """
    best, held, places = torch.empty(0), torch.empty(0), torch.empty(0, dtype=kind)
    least = -1.0  # what an entry must exceed: entries further on lose every tie
    for first, grads, scores in blocks:
        here = (scores > least).nonzero().flatten()
        best, held = torch.cat([best, scores[here]]), torch.cat([held, grads[here]])
        places = torch.cat([places, here.add_(first).to(kind)])
        if len(best) > 2 * count:
            best, held, places = _best(best, held, places, count)
            least = float(best.min()) if count else math.inf
    return _best(best, held, places, count)[1:]


def _best(scores: Tensor, grads: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    best = keep_top(scores[None], min(count, len(scores)))[0]
    return scores[best], grads[best], places[best]


def _carry(run: Run, state: WeightState, move: Move, grads: Tensor, begin: Tensor | None) -> None:
    """Values, gradient and optimizer memory follow their entries; fresh ones have their own gradient.

    grads, begin: of the fresh entries, by their position; they begin at zero without `begin`.
    """
    parameter, memory = state.weight.parameter, run.optimizer.state
    for name in [name for name, _ in optimizers.entries(run.optimizer, parameter)]:
        memory[parameter][name] = move.carry(
            memory[parameter][name], optimizers.begin_of(run.optimizer, parameter, name)
        )
    grad = parameter.grad
    values = move.carry(parameter.detach())
    if begin is not None:
        put_at(values, move.fresh, begin)
    replace_data(parameter, values)
    if grad is not None:
        parameter.grad = move.carry(grad)
        put_at(parameter.grad, move.fresh, grads)
