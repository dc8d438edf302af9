"""How a block's share of zeros is spread over its matrices: all alike, or greedily by what the block's output loses.

Source: Liu et al. 2024, arXiv:2408.14690, algorithm 1.
Differs: the last step is cut so that the asked share is met exactly, and what a step would add to the squared error of
the block is tried again only where it may be the least: for the matrix that moved last and those that come next.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby

from rarefy.activations.job import Job
from rarefy.activations.quantiles import Maker
from rarefy.calibration.block_trials import BlockTrial
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.selectors.attach import select_inputs
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import Projection

Allocation = str | Mapping[str, float]
"""\"greedy\", \"uniform\", or the share of zeros of every place, as an earlier report has it."""
STEP = 0.005
"""What one step adds to the share of its block, whichever matrix it goes to.

The authors' code steps by 0.025 of q_proj, which is 0.002 of a block of Llama. Steps of 0.025 of the block move a small
matrix by a third or half at once, and which one is hit then decides more than the method does.
"""
MOST = 0.95
"""No matrix is asked for more zeros than this, or than the calibration text can tell, unless its whole block is."""


def spread(job: Job, made: Mapping[str, Maker], allocation: Allocation, step: float) -> dict[str, float]:
    """{place: share of zeros}; every block meets `job.sparsity`, its matrices weighted by their sizes."""
    require_allocation(job, allocation, step)
    if isinstance(allocation, Mapping):
        return {place.name: float(allocation[place.name]) for place in job.places}
    if allocation == "uniform":
        return {place.name: job.sparsity for place in job.places}
    for place in job.places:
        made[place.name](job.sparsity)  # says, before the search, how many tokens the share takes
    trials = job.trials()
    found: dict[str, float] = {}
    for number, places in groupby(job.places, key=lambda place: place.block):
        found |= greedy(list(places), trials[number], made, job.sparsity, step)
    return found


def require_allocation(job: Job, allocation: Allocation, step: float) -> None:
    """Refuses what `spread` cannot use, before anything is calibrated or changed."""
    if isinstance(allocation, Mapping):
        _require_shares(job, allocation)
    elif allocation not in ("greedy", "uniform"):
        raise UnknownNameError(
            f"allocation: {allocation!r} is neither 'greedy' nor 'uniform' nor a share for every place"
        )
    elif allocation == "greedy" and not 0.0 < step <= 1.0:
        raise SparsityError(f"step: {step} is outside (0, 1]; it is the share of the block that one step makes sparse")


def _require_shares(job: Job, shares: Mapping[str, float]) -> None:
    names = [place.name for place in job.places]
    if missing := [name for name in names if name not in shares]:
        raise UnknownNameError(
            f"allocation: has no share for {missing[:3]}; it gives one for each of {len(names)} places"
        )
    if wrong := [name for name in names if not 0.0 <= shares[name] <= 1.0]:
        raise SparsityError(f"allocation: {shares[wrong[0]]} for {wrong[0]} is outside [0, 1]")
    size = {place.name: weight_of(place.module).numel() for place in job.places}
    whole = sum(shares[name] * size[name] for name in names) / sum(size.values())
    if abs(whole - job.sparsity) > 1e-3:
        raise SparsityError(
            f"allocation: its shares come to {whole:.4f} of the weights, sparsity is {job.sparsity:.4f}"
        )


def greedy(
    places: Sequence[Projection], trial: BlockTrial, made: Mapping[str, Maker], sparsity: float, step: float
) -> dict[str, float]:
    """{place: share of zeros} of one block: each step goes where it hurts the block's output least.

    Where the text is too short to tell any share that the next step could lead to, all places get the share asked, and
    a warning says so.
    """
    size = {p.name: weight_of(p.module).numel() for p in places}
    part = {name: count / sum(size.values()) for name, count in size.items()}
    most = {p.name: max(sparsity, min(MOST, made[p.name].most)) for p in places}
    now, at = {p.name: 0.0 for p in places}, 0.0
    known: dict[str, tuple[float, float]] = {}  # the step at a place when it was last tried, and what it added
    while (left := sparsity - sum(now[name] * part[name] for name in now)) > 1e-9:
        steps = {}
        for name, share in now.items():
            wanted = max(step / part[name], made[name].least - share)
            steps[name] = min(wanted, left / part[name], most[name] - share)
        steps = _possible(steps, {name: made[name].least - now[name] for name in now})
        if not steps:
            warnings.warn(
                f"greedy shares: the text is too short to tell shares that a step of {step:g} leads to in the block of "
                f"{places[0].name}, whose matrices all get {sparsity:g}; give more tokens",
                UserWarning,
                stacklevel=2,
            )
            return dict.fromkeys(now, sparsity)
        tried: set[str] = set()
        while (best := min(steps, key=lambda name: _rise(known.get(name), steps[name]))) not in tried:
            tried.add(best)
            error = block_error(places, trial, made, now | {best: now[best] + steps[best]})
            known[best] = steps[best], error**2 - at
        now[best] += steps[best]
        at += known.pop(best)[1]
    return now


def _possible(steps: Mapping[str, float], least: Mapping[str, float]) -> dict[str, float]:
    """The steps that lead somewhere, to shares that the text can tell."""
    return {name: step for name, step in steps.items() if step > 1e-9 and step >= least[name] - 1e-9}


def _rise(known: tuple[float, float] | None, step: float) -> float:
    """What such a step added to the squared error when it was last tried; least of all where it was not."""
    return known[1] if known is not None and abs(known[0] - step) < 1e-9 else -math.inf


def block_error(
    places: Sequence[Projection], trial: BlockTrial, made: Mapping[str, Maker], sparsities: Mapping[str, float]
) -> float:
    """The block's relative output error with these shares of zeros at its places."""
    with ExitStack() as stack:
        for place in places:
            if sparsities[place.name] > 0.0:
                stack.callback(select_inputs(place.module, made[place.name](sparsities[place.name])).remove)
        return trial.error()
