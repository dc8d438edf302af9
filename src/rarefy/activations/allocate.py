"""How a block's share of zeros is spread over its matrices: all alike, or greedily by what the block's output loses.

Source: Liu et al. 2024, arXiv:2408.14690, algorithm 1.
Differs: a step adds `step` to the block's share whichever matrix it goes to (the step of matrix i is step / f_i, f_i
its share of the weights), and the last step is cut so that the asked share is met exactly.
"""

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

MOST = 0.95
"""No matrix is asked for more zeros than this, or than the calibration text can tell, unless its whole block is."""


def spread(job: Job, made: Mapping[str, Maker], allocation: str, step: float) -> dict[str, float]:
    """{place: share of zeros}; every block meets `job.sparsity`, its matrices weighted by their sizes."""
    if allocation == "uniform":
        return {place.name: job.sparsity for place in job.places}
    if allocation != "greedy":
        raise UnknownNameError(f"allocation: {allocation!r} is neither 'greedy' nor 'uniform'")
    if not 0.0 < step <= 1.0:
        raise SparsityError(f"step: {step} is outside (0, 1]; it is the share of the block that one step makes sparse")
    trials = job.trials()
    found: dict[str, float] = {}
    for number, places in groupby(job.places, key=lambda place: place.block):
        found |= greedy(list(places), trials[number], made, job.sparsity, step)
    return found


def greedy(
    places: Sequence[Projection], trial: BlockTrial, made: Mapping[str, Maker], sparsity: float, step: float
) -> dict[str, float]:
    """{place: share of zeros} of one block: each step goes where it hurts the block's output least."""
    share = {p.name: weight_of(p.module).numel() for p in places}
    total = sum(share.values())
    now = {p.name: 0.0 for p in places}
    most = {p.name: max(sparsity, min(MOST, made[p.name].most)) for p in places}
    left = sparsity
    while left > 1e-9:
        size = min(step, left)
        options = []
        for place in places:
            added = min(size * total / share[place.name], most[place.name] - now[place.name])
            if added > 1e-9:
                options.append(now | {place.name: now[place.name] + added})
        now = min(options, key=lambda tried: block_error(places, trial, made, tried))
        left = sparsity - sum(now[name] * share[name] for name in now) / total
    return now


def block_error(
    places: Sequence[Projection], trial: BlockTrial, made: Mapping[str, Maker], sparsities: Mapping[str, float]
) -> float:
    """The block's relative output error with these shares of zeros at its places."""
    with ExitStack() as stack:
        for place in places:
            if sparsities[place.name] > 0.0:
                stack.callback(select_inputs(place.module, made[place.name](sparsities[place.name])).remove)
        return trial.error()
