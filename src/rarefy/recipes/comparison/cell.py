"""One cell of the table: a fresh copy of the model, pruned by one variant under one condition with one seed."""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import evaluation
from rarefy.core.errors import DataError, RarefyError
from rarefy.pruning import PruneReport, prune
from rarefy.recipes.comparison.condition import FREE, Condition
from rarefy.recipes.comparison.peak import peak_memory
from rarefy.recipes.comparison.variant import Variant

Evaluate = Callable[[nn.Module], Any]  # a number, or {name: number} with the most important first
_RAREFY = "rarefy"


@dataclass(frozen=True)
class Case:
    """What all cells share. data: batches by seed (equal batches are stored once); loss: of `prune`."""

    model: nn.Module
    data: Mapping[int, Sequence[Any]]
    evaluate: Evaluate
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    ignore: tuple[str, ...] = ()
    undivided: str = "error"


@dataclass(frozen=True)
class Cell:
    """A variant under a condition with a seed; neither of the first two: the dense model."""

    variant: Variant | None
    condition: Condition | None
    seed: int

    @property
    def label(self) -> str:
        if self.variant is None or self.condition is None:
            return "dense"
        return f"{self.variant.label} {self.condition.label} seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What came of a cell. seconds: of the pruning; evaluation_seconds: of measuring; peak_mib: the most memory that
    pruning took above the model and data; layers: how many were pruned; error: why there are no metrics; retry: the
    error may have been the machine's, so the next run tries again."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    sparsity: float | None = None
    seconds: float | None = None
    evaluation_seconds: float | None = None
    peak_mib: float | None = None
    layers: int | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    retry: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_cell(case: Case, cell: Cell) -> Outcome:
    """Prunes a copy and evaluates it; whatever goes wrong inside becomes the outcome's error."""
    try:
        return _run(case, cell)
    except Exception as error:
        if type(error).__module__.partition(".")[0] == _RAREFY:
            return Outcome(error=_line(error), retry=not isinstance(error, RarefyError))
        return Outcome(error=f"{type(error).__name__}: {_line(error)}", retry=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _run(case: Case, cell: Cell) -> Outcome:
    model = copy.deepcopy(case.model)
    report: PruneReport | None = None
    seconds = peak = None
    if cell.variant is not None and cell.condition is not None:
        with peak_memory() as memory:
            began = time.perf_counter()
            report = _prune(model, case, cell.variant, cell.condition, cell.seed)
            seconds = time.perf_counter() - began
        peak = memory.mib
    began = time.perf_counter()
    with evaluation(model):
        metrics = measured(case.evaluate, model, cell.label)
    taken = time.perf_counter() - began
    if report is None:
        return Outcome(metrics, evaluation_seconds=taken)
    return Outcome(metrics, report.sparsity, seconds, taken, peak, len(report.sites), dict(report.skipped))


def _prune(model: nn.Module, case: Case, variant: Variant, condition: Condition, seed: int) -> PruneReport:
    own = variant.pattern if condition.pattern == FREE and variant.pattern is not None else condition.pattern
    return prune(
        model,
        variant.method,
        sparsity=condition.sparsity,
        pattern=own,
        allocation=variant.allocation,
        data=list(case.data[seed]) or None,
        loss=case.loss,
        ignore=case.ignore,
        undivided=case.undivided,
        repair=variant.repair,
        seed=seed,
        **variant.options,
    )


def measured(evaluate: Evaluate, model: nn.Module, where: str) -> dict[str, float]:
    """The metrics as {name: number}; one number alone is called "score". NaN and infinity are errors."""
    given = evaluate(model)
    named = dict(given) if isinstance(given, Mapping) else {"score": given}
    if not named:
        raise DataError(f"{where}: evaluate returned no metric; return a number or {{name: number}}")
    found = {str(name): _number(value, str(name), where) for name, value in named.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise DataError(
                f"{where}: evaluate returned {value} as {name}; the model or the evaluation has broken down"
            )
    return found


def _number(value: Any, name: str, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        said = f"{where}: evaluate returned {type(value).__name__} as {name}; return a number or {{name: number}}"
        raise DataError(said) from None
