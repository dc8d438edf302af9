"""What a sparse training run looks like at a moment."""

from dataclasses import asdict, dataclass
from typing import Any

from rarefy.training.run import Run


@dataclass(frozen=True)
class WeightReport:
    """One weight: kept entries, the asked count, and the share of entries that were ever kept."""

    name: str
    shape: tuple[int, int]
    kept: int
    asked: int
    explored: float | None


@dataclass(frozen=True)
class TrainingReport:
    """The run as it is.

    sparsity: fraction of zeros over the trained weights; explored: share of entries that were kept at any time, the
    in-time over-parameterisation rate R_s of Liu et al. 2021 (ITOP, arXiv:2102.02887, section 3); None where the
    method does not count it.
    """

    method: str
    step: int
    sparsity: float
    explored: float | None
    weights: tuple[WeightReport, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        seen = "" if self.explored is None else f", {self.explored:.1%} of all weights tried"
        return f"{self.method}, step {self.step}: {self.sparsity:.2%} zeros in {len(self.weights)} weights{seen}"


def report_of(name: str, run: Run) -> TrainingReport:
    rows = tuple(
        WeightReport(s.name, s.shape, s.kept, s.count, None if s.explored is None else float(s.explored.float().mean()))
        for s in run.states
    )
    size = sum(s.size for s in run.states)
    explored = [s.explored for s in run.states if s.explored is not None]
    share = sum(int(e.count_nonzero()) for e in explored) / size if len(explored) == len(run.states) else None
    return TrainingReport(name, run.step, 1.0 - sum(r.kept for r in rows) / size, share, rows)
