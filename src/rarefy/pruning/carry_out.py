"""The work of a pruning call on the sites it was given, and the way back where that fails."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from rarefy.core.errors import ModelError
from rarefy.core.grid import attach_grid, grid_of
from rarefy.core.protocols import Allocation, Search
from rarefy.core.site import Site
from rarefy.pruning.job import Job
from rarefy.pruning.ladder import rung
from rarefy.pruning.work import Work


def carry_out(job: Job, spread: Allocation | Search, density: float, at_once: bool = False) -> Work:
    """Prunes the sites of a job in all rounds of its method, in one where `at_once`; gives what it has to say."""
    one_shot = job.one_shot
    rounds = 1 if at_once else one_shot.rounds
    finish = None
    if one_shot.finish is not None:
        finish = one_shot.finish.begin(job.model, job.sites, job.batches, job.loss)
    work = Work(job)
    for step in range(1, rounds + 1):
        work.round(spread, rung(density, step, rounds, one_shot.ladder), step, rounds)
    if finish is not None:
        work.finished(finish())
    return work


@contextmanager
def own_modes(sites: Sequence[Site]) -> Iterator[None]:
    """Gradients and inference mode as they are outside of the caller's, but for weights that were made in inference
    mode; raises ModelError for weights that cannot be written."""
    inside = torch.is_inference_mode_enabled()
    for site in sites:
        weight = site.parameter
        expanded = any(step == 0 and size > 1 for step, size in zip(weight.stride(), weight.shape, strict=True))
        if expanded or (weight.is_inference() and not inside):
            why = "many of its entries are one place in memory" if expanded else "it was made in inference mode"
            raise ModelError(
                f"{site.name}: its weight cannot be written: {why}; give the layer one of its own, "
                "layer.weight = nn.Parameter(layer.weight.clone()), outside of inference mode"
            )
    with torch.inference_mode(inside and any(site.parameter.is_inference() for site in sites)), torch.enable_grad():
        yield


@contextmanager
def all_or_nothing(sites: Sequence[Site]) -> Iterator[None]:
    """Puts every weight and bias back, and the grids they lay on, if anything goes wrong inside."""
    grids = [grid_of(site.module) for site in sites]
    tensors = [tensor for site in sites for tensor in (site.parameter, *site.biases)]
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        for site, grid in zip(sites, grids, strict=True):
            attach_grid(site, grid)
        raise
