"""The door: methods side by side on one model, same data, same layers, same evaluation."""

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, evaluation
from rarefy.core.errors import DataError
from rarefy.core.site import find_sites
from rarefy.pruning import OneShot
from rarefy.recipes.comparison.cell import Case, Cell, Evaluate, Outcome, measured
from rarefy.recipes.comparison.comparison import Comparison
from rarefy.recipes.comparison.condition import FREE, conditions
from rarefy.recipes.comparison.files import write_comparison
from rarefy.recipes.comparison.runners import OnRay, Processes, Runner, serial
from rarefy.recipes.comparison.store import CellStore, Keys, keys_of, open_store
from rarefy.recipes.comparison.variant import Variant, variant_of
from rarefy.recipes.environment import environment
from rarefy.recipes.stages import Silent, Stages

Methods = Sequence[str | OneShot | Variant] | Mapping[str, str | OneShot | Variant]
Data = Iterable[Any] | Callable[[int], Iterable[Any]] | None
DENSE = Cell(None, None, 0)


def compare(
    model: nn.Module,
    methods: Methods,
    *,
    evaluate: Evaluate,
    sparsity: float | Sequence[float] = (),
    pattern: str | Sequence[str] = FREE,
    data: Data = None,
    calibration: int | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seeds: int | Sequence[int] = 1,
    lower_is_better: bool | Collection[str] = False,
    ignore: Sequence[str] = (),
    undivided: str = "error",
    out: str | Path | None = None,
    workers: int = 1,
    ray: bool = False,
    fresh: bool = False,
    collect: bool = False,
    stages: Stages = Silent(),
    name: str = "",
    said: str = "",
) -> Comparison:
    """Prunes a copy of `model` by each method at each sparsity with each seed, and evaluates each copy.

    methods: "wanda", "wanda@owl", "sparsegpt+repair=weights+columns=64", OneShot objects; a mapping gives them labels.
    evaluate: evaluate(model) gives a number, or {name: number} with the most important first; lower_is_better: whether
    less is better, or the names of the metrics of which it is (an attribute of that name on `evaluate` says so too).
    sparsity, pattern: one or several; N:M patterns fix their sparsity.
    data: batches as for `prune`, or a function that gives a seed's batches; calibration: how many of the batches each
    seed draws (default: all). loss: as for `prune`. seeds: how many (0, 1, ...), or which.
    out: folder of compare.{md,csv,json,svg} and of a file a cell. A cell is found again, now or after a kill, while
    model, data, method, evaluation and rarefy are the same; fresh: run all again; collect: run none, write what is
    there. workers: processes; ray: one Ray task a cell. A cell that fails becomes a note in the table.
    name, said: of the model and of the data, for the report.
    """
    variants = _variants(methods)
    columns = conditions(_names(pattern), _numbers(sparsity))
    chosen = _seeds(seeds)
    case = Case(model, _batches(data, chosen, calibration), evaluate, loss, tuple(ignore), undivided)
    find_sites(model, ignore)  # nothing to prune, or a layer to ignore that is not there, is an error here
    runner = _runner(workers, ray)
    cells = [Cell(v, c, seed) for seed in chosen for c in columns for v in variants]  # whole columns first
    store = None if out is None else open_store(Path(out))
    keys = None if store is None else keys_of(case)
    known = {} if fresh else _known(store, keys, cells)
    dense = _dense(case, store, keys, fresh)
    lower = _lower(lower_is_better, evaluate, dense)
    if not collect:
        _run(case, [cell for cell in cells if cell not in known], known, runner, store, keys, stages, dense)
    ordered = {cell: known[cell] for cell in cells if cell in known}
    heading = {"model": name or type(model).__name__, "data": said or _sizes(case), "environment": environment()}
    labels = tuple(v.label for v in variants)
    found = Comparison(labels, tuple(columns), chosen, dense, lower, ordered, heading)
    if out is not None:
        write_comparison(found, Path(out))
    return found


def _variants(methods: Methods) -> list[Variant]:
    if isinstance(methods, str):
        raise DataError(f"methods: {methods!r} is one text; give a list: [{methods!r}]")
    pairs = methods.items() if isinstance(methods, Mapping) else ((None, thing) for thing in methods)
    found = [variant_of(thing, label) for label, thing in pairs]
    labels = [variant.label for variant in found]
    if not found:
        raise DataError("methods: none given; `rarefy methods --role method` lists all")
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise DataError(f"methods: {', '.join(twice)} given twice; leave one out, or name them by a mapping")
    return found


def _names(pattern: str | Sequence[str]) -> list[str]:
    return [pattern] if isinstance(pattern, str) else list(pattern)


def _numbers(sparsity: float | Sequence[float]) -> list[float]:
    return [sparsity] if isinstance(sparsity, int | float) else list(sparsity)


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    found = tuple(range(seeds)) if isinstance(seeds, int) else tuple(dict.fromkeys(seeds))
    if not found:
        raise DataError(f"seeds: {seeds} gives no run; give at least 1")
    return found


def _batches(data: Data, seeds: Sequence[int], calibration: int | None) -> dict[int, Sequence[Any]]:
    """The batches of each seed; an empty list where there are no data, which methods that need some refuse."""
    if callable(data):
        found = {seed: as_batches(data(seed), method="compare", needed=True) for seed in seeds}
    else:
        every = as_batches(data, method="compare", needed=data is not None)
        found = dict.fromkeys(seeds, every)
    if calibration is None:
        return dict(found)
    for seed, batches in found.items():
        if not 1 <= calibration <= len(batches):
            raise DataError(
                f"calibration: {calibration} of {len(batches)} batches cannot be drawn; give 1 to that many"
            )
        found[seed] = random.Random(seed).sample(batches, calibration)
    return dict(found)


def _runner(workers: int, ray: bool) -> Runner:
    if workers < 1:
        raise DataError(f"workers: {workers} processes; give 1 or more")
    if ray and workers > 1:
        raise DataError("workers and ray exclude each other: Ray decides itself how many run at once")
    return OnRay() if ray else Processes(workers) if workers > 1 else serial


def _known(store: CellStore | None, keys: Keys | None, cells: Sequence[Cell]) -> dict[Cell, Outcome]:
    """What the store has; errors that may have been the machine's are forgotten."""
    if store is None or keys is None:
        return {}
    found = {cell: store.get(keys.of(cell)) for cell in cells}
    return {cell: outcome for cell, outcome in found.items() if outcome is not None and not outcome.retry}


def _dense(case: Case, store: CellStore | None, keys: Keys | None, fresh: bool) -> dict[str, float]:
    """The metrics of the model as it is: an evaluation that does not work is found out here, at once."""
    if store is not None and keys is not None and not fresh:
        known = store.get(keys.of(DENSE))
        if known is not None and known.error is None:
            return dict(known.metrics)
    with evaluation(case.model):
        metrics = measured(case.evaluate, case.model, "dense model")
    if store is not None and keys is not None:
        store.put(keys.of(DENSE), DENSE, Outcome(metrics))
    return metrics


def _run(
    case: Case,
    cells: Sequence[Cell],
    known: dict[Cell, Outcome],
    runner: Runner,
    store: CellStore | None,
    keys: Keys | None,
    stages: Stages,
    dense: Mapping[str, float],
) -> None:
    """Runs what is missing; each outcome is on the disk before the next is waited for."""
    if known:
        stages.say(f"{len(known)} cell(s) were there already")
    if not cells:
        return
    with stages.stage("cells", len(cells)) as advance:
        for cell, outcome in runner(case, cells):
            known[cell] = outcome
            if store is not None and keys is not None:
                store.put(keys.of(cell), cell, outcome)
            stages.say(_line(cell, outcome, next(iter(dense))))
            advance(1)


def _line(cell: Cell, outcome: Outcome, metric: str) -> str:
    if outcome.error is not None:
        return f"{cell.label}: failed: {outcome.error}"
    value = outcome.metrics.get(metric, float("nan"))
    return f"{cell.label}: {metric} {value:.4g}, pruned in {outcome.seconds or 0.0:.1f} s"


def _lower(given: bool | Collection[str], evaluate: Evaluate, dense: Mapping[str, float]) -> frozenset[str]:
    if isinstance(given, bool):
        given = tuple(dense) if given else ()
    names: frozenset[str] = frozenset(given or getattr(evaluate, "lower_is_better", ()))
    if unknown := names - set(dense):
        raise DataError(f"lower_is_better: {sorted(unknown)} is no metric; evaluate returns {sorted(dense)}")
    return names


def _sizes(case: Case) -> str:
    counts = sorted({len(batches) for batches in case.data.values()})
    return f"{'/'.join(map(str, counts))} calibration batches a seed" if counts != [0] else "no calibration data"
