"""What a compiled model says about itself."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerRow:
    """One layer at one token count. Times are milliseconds of the layer alone (median of interleaved rounds);
    sparse_ms is the fastest sparse kernel's, None where none was tried; candidates holds all of them. origin: whether
    the times were "measured" now, come from the "cache" on disk or from the fitted "model"; "" where there are none."""

    name: str
    shape: tuple[int, int]
    sparsity: float
    tokens: int
    kernel: str  # "dense" or the name of the chosen kernel
    dense_ms: float | None
    sparse_ms: float | None
    reason: str
    candidates: dict[str, float] = field(default_factory=dict)
    origin: str = ""

    @property
    def others(self) -> str:
        """The times of all candidates in words, fastest first."""
        ranked = sorted(self.candidates.items(), key=lambda pair: pair[1])
        return ", ".join(f"{name} {ms:.3f}" for name, ms in ranked)


@dataclass(frozen=True)
class Explanation:
    """Rows a layer, and what holds for the whole model.

    graph: why the whole-model graph is or is not used; whole: measured milliseconds of the model, source and
    compiled, a dictionary a set of example inputs (None where nothing was timed); notes: whatever else a
    user should know.
    """

    rows: tuple[LayerRow, ...]
    graph: str
    whole: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    threads: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{'layer':<48} {'shape':>14} {'zeros':>7} {'tokens':>7} {'dense ms':>9} {'sparse ms':>9}  choice"]
        said: set[tuple[str, int]] = set()  # layers of one shape share their times: listed once
        for row in self.rows:
            dense = "-" if row.dense_ms is None else f"{row.dense_ms:.3f}"
            sparse = "-" if row.sparse_ms is None else f"{row.sparse_ms:.3f}"
            lines.append(
                f"{row.name:<48} {row.shape!s:>14} {row.sparsity:>7.1%} {row.tokens:>7} {dense:>9} {sparse:>9}  "
                f"{row.kernel}: {row.reason}"
            )
            if row.candidates and (row.others, row.tokens) not in said:
                said.add((row.others, row.tokens))
                lines.append(f"    ms, {row.origin}: dense {dense}, {row.others}")
        lines.append(f"graph: {self.graph}")
        lines += [f"whole model, {whole['inputs']}: {self._whole(whole)}" for whole in self.whole]
        return "\n".join([*lines, *self.notes])

    def _whole(self, whole: dict[str, Any]) -> str:
        if whole["source_ms"] is None:
            return f"not timed; runs {whole['runs']}{_moved(whole)}"
        known = " when it was last timed" if whole.get("origin") == "cache" else ""
        return (
            f"{whole['source_ms']:.2f} ms as given, {whole['compiled_ms']:.2f} ms compiled "
            f"({whole['speedup']:.2f}x, {self.threads} threads){known}; runs {whole['runs']}"
            f"{_moved(whole)}"
        )


def _moved(whole: dict[str, Any]) -> str:
    """What narrower types did to the outputs, where it is more than rounding."""
    difference = whole.get("difference", 0.0)
    return f"; outputs differ by {difference:.2%} of their norm" if difference > 1e-3 else ""
