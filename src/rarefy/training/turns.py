"""Whose turn it is: a weight without a gradient in a step is left alone in it, and makes up for it later."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from rarefy.training.ranks import several_ranks
from rarefy.training.run import Run
from rarefy.training.state import WeightState

_LATE = "late"  # in run.memory: names of the weights that had no gradient when a change was due


def has_gradient(state: WeightState) -> bool:
    """Whether the coming step trains the weight: what is left in `grad` of a frozen one does not count."""
    parameter = state.weight.parameter
    return parameter.requires_grad and parameter.grad is not None


def rest(run: Run) -> None:
    """Ahead of a step: `run.idle` becomes the weights that no rank has a gradient of; frozen ones let go of theirs."""
    for state in run.states:
        if not state.weight.parameter.requires_grad:
            state.weight.parameter.grad = None
    moves = [has_gradient(state) for state in run.states]
    if several_ranks():
        shared = torch.tensor(moves, dtype=torch.uint8, device=run.states[0].weight.parameter.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        moves = shared.bool().tolist()
    run.idle = frozenset(state.name for state, moving in zip(run.states, moves, strict=True) if not moving)


def turn(run: Run, due: bool) -> list[WeightState]:
    """The weights that make now a change which each of them has to make: when it is due all that have a gradient, and
    at other steps those that had none then and have one now."""
    late = set(run.memory.get(_LATE, ()))
    now = [state for state in run.moving if due or state.name in late]
    left = (late | run.idle if due else late) - {state.name for state in now}
    run.memory.pop(_LATE, None)
    if left:
        run.memory[_LATE] = sorted(left)
    return now


def some_late(run: Run) -> bool:
    """Whether a weight has a change to make up for."""
    return _LATE in run.memory


def shared_out(run: Run, masks: Sequence[Tensor]) -> list[tuple[WeightState, Tensor]]:
    """Of masks of one ranking over all weights those that are set now; the others' densities are noted for later."""
    for state, mask in zip(run.states, masks, strict=True):
        if state.name in run.idle:
            state.density = int(mask.count_nonzero()) / mask.numel()
    now = {state.name for state in turn(run, due=True)}
    return [(state, mask) for state, mask in zip(run.states, masks, strict=True) if state.name in now]
