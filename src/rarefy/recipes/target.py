"""A budget in milliseconds: the densities that keep most quality at an asked, measured speed-up."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from numbers import Real
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, as_call, inference
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.site import find_sites
from rarefy.engine.plan import tokens_of
from rarefy.engine.precision import Precision
from rarefy.pruning import OneShot, PruneReport
from rarefy.pruning.resolve import resolve_method, resolve_pattern
from rarefy.recipes.target_job import Job, least_loss, solved_densities, spread
from rarefy.recipes.target_losses import Losses
from rarefy.recipes.target_plan import Search
from rarefy.recipes.target_solve import solve_to_speed
from rarefy.recipes.target_times import Calm, LayerTimes, SpeedOf, measured_speed

WHOLE = "kept whole: the asked speed-up does not need its zeros"


def prune_to_speed(
    model: nn.Module,
    method: str | OneShot,
    target_speedup: float,
    *,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    data: Iterable[Any] | None = None,
    example_inputs: Any = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    weights: str = "fp32",
    activations: str = "fp32",
    speed: SpeedOf | None = None,
    **options: Any,
) -> PruneReport:
    """Prunes `model` in place so that compiled it is `target_speedup` times faster than dense torch, measured here.

    example_inputs: one call of the model (a tensor, a tuple or a dict), by default the first batch of `data`.
    allocation: None spreads the milliseconds so that the model loses least (`recipes.target_search`); a name spreads
    zeros that way ("uniform", "erk", ...) and finds how many are needed. Layers that need no zeros stay whole.
    weights, activations: the types that the model will be compiled with; the weights themselves stay float32.
    speed: how a sparse model is measured against the dense one, by default compiled and called in this process; where
    the dense model took a quarter longer than before, it is measured again (`recipes.target_times.Calm`).

    How the model's time follows the times of its layers (measured a layer and density) is learnt by compiling copies
    pruned by magnitude until the whole is within 2 %. Then the method runs, and what it made is measured and the budget
    corrected until that is within 3 % (`recipes.target_solve`). `report.target` holds what was reached and every round.
    On any error the model is as it was. Raises SparsityError when no density reaches the target, and says what does.
    """
    if isinstance(target_speedup, bool) or not isinstance(target_speedup, Real):
        raise SparsityError(f"target_speedup: {target_speedup!r} is not a number; give e.g. 2.0 for twice as fast")
    if not target_speedup > 0:
        raise SparsityError(f"target_speedup: {target_speedup} is not positive; give e.g. 2.0 for twice as fast")
    name, one_shot = resolve_method(method, options)
    support = resolve_pattern(pattern, one_shot.pattern)
    batches = as_batches(data, method=name, needed=bool(one_shot.solver.needs))
    inputs = _inputs(example_inputs, batches, loss)
    sites, ignored = find_sites(model, ignore)
    precision = Precision(weights, activations)
    measure = partial(measured_speed, precision=precision) if speed is None else speed
    job = Job(model, one_shot, support, sites, inputs, ignore, target_speedup, Calm(measure))
    started = time.perf_counter()
    with inference(model):
        tokens = tokens_of(model, sites, lambda: model(*as_call(inputs)[0], **as_call(inputs)[1]))
        times = LayerTimes(support, tokens, precision)
        if allocation is not None:
            allocate = spread(job, allocation, times)
        else:
            dense = model, one_shot, support, sites, batches, solved_densities(support)
            allocate = least_loss(job, times, Losses(*dense, loss=loss, seed=seed))
        search = Search(job, allocate, times)
        plan = search.run()
    solved = solve_to_speed(job, plan, search, batches, loss=loss, seed=seed, progress=progress)
    report = solved.report
    pruned = {site.name for site in report.sites}
    whole = {site.name: WHOLE for site in sites if site.name not in pruned and site.name not in ignored}
    reached = {
        "asked": target_speedup,
        "achieved": solved.speed.ratio,
        "dense_ms": solved.speed.dense_ms,
        "compiled_ms": solved.speed.compiled_ms,
        "weights": weights,
        "activations": activations,
        "trials": plan.trials,
        "solves": len(solved.rounds),
        "rounds": [asdict(r) for r in solved.rounds],
        "correction": solved.correction,
        "seconds": time.perf_counter() - started,
    }
    how = "latency" if allocation is None else str(allocation)
    return replace(report, method=name, allocation=how, skipped={**report.skipped, **whole}, target=reached)


def _inputs(example: Any, batches: Sequence[Any], loss: object) -> Any:
    if example is not None:
        return example[0] if isinstance(example, list) else example
    if batches and loss is None:
        return batches[0]
    raise DataError("target_speedup: needs example_inputs=, a call of the model, to measure its speed with")
