"""Selecting the inputs of projections: calibrate, spread the budget, attach. TEAL and WINA are this with one weight."""

from collections.abc import Mapping
from dataclasses import replace

from rarefy.activations.allocate import Allocation, require_allocation, spread
from rarefy.activations.job import Job, Placed
from rarefy.activations.quantiles import Form, Maker, Weigh, makers, require_form, unweighted, watch
from rarefy.calibration.magnitudes import Magnitudes
from rarefy.core.errors import SparsityError
from rarefy.core.topk import exact_count
from rarefy.selectors.attach import input_selector, reselect_inputs, select_inputs
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import Projection


def sparsify_inputs(
    job: Job, *, form: Form, allocation: Allocation, step: float, settle: int, weigh: Weigh = unweighted
) -> list[Placed]:
    """A selector on the input of every place of the job. Greedy shares are found with thresholds, whatever the form."""
    require_options(job, form=form, allocation=allocation, step=step, settle=settle)
    made = makers(job, form, weigh)
    tried = makers(job, "threshold", weigh) if allocation == "greedy" and form == "top-k" else made
    return attach_inputs(job, made, spread(job, tried, allocation, step), settle if form == "threshold" else 0)


def require_options(job: Job, *, form: str, allocation: Allocation, step: float, settle: int) -> None:
    """Refuses options that cannot be used, before anything is calibrated or changed."""
    require_form(form)
    require_allocation(job, allocation, step)
    require_settle(settle)
    if form == "top-k" and allocation == "uniform":
        for place in job.places:
            require_kept(job.sparsity, weight_of(place.module).shape[1], place.name)


def require_kept(sparsity: float, width: int, name: str, what: str = "inputs") -> None:
    """Refuses a share of zeros that leaves nothing of a layer: its output would be its bias for every token."""
    if exact_count(width, 1.0 - sparsity) == 0:
        raise SparsityError(
            f"sparsity: {sparsity:g} keeps none of the {width} {what} of {name}; "
            f"give at most {1.0 - 1.0 / width:g}, or leave the layer out"
        )


def require_settle(settle: int) -> None:
    if settle < 0:
        raise SparsityError(f"settle: {settle} is how often thresholds are set anew; give 0 or more")


def attach_inputs(
    job: Job, made: Mapping[str, Maker], sparsities: Mapping[str, float], settle: int = 0
) -> list[Placed]:
    """Attaches the selectors of these shares of zeros.

    settle: how often the thresholds are set anew on what the places see in the model that is sparse already: the zeros
    of earlier layers make the later activations smaller, and a threshold of the dense model then drops too many.
    """
    for place in job.places:
        select_inputs(place.module, made[place.name](sparsities[place.name]))
    for _ in range(settle):
        again = {name: replace(maker, seen=Magnitudes()) for name, maker in made.items()}
        watch(job, [(place, again[place.name]) for place in job.places])
        for place in job.places:
            reselect_inputs(place.module, again[place.name](sparsities[place.name]))
    return [placed(place, sparsities[place.name]) for place in job.places]


def placed(place: Projection, asked: float, added: int = 0) -> Placed:
    """The record of the selector on a place's input."""
    selector = input_selector(place.module)
    assert selector is not None
    return Placed(place.name, "input", place.module, selector, asked, (place.module,), added)
