"""What a benchmark found: every round's time of everyone, and how well each output agrees."""

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rarefy.core.errors import unknown_name
from rarefy.engine.writing import Writing

WRONG = 1e-3  # a float32 output further than this from eager torch's (relative to its largest value) is called wrong


@dataclass(frozen=True)
class Timed:
    """One contestant at one shape. rounds: ms of each round; cosine and error: its output against eager torch's."""

    rounds: tuple[float, ...]
    precision: str
    isa: str
    cosine: float
    error: float
    prepare_seconds: float

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)

    @property
    def worst(self) -> float:
        return max(self.rounds)

    @property
    def wrong(self) -> bool:
        """Whether a float32 result is not what eager torch computes."""
        return self.precision == "fp32" and self.error > WRONG


@dataclass(frozen=True)
class ShapeTimes:
    """Everyone at one shape. order: who had a turn when, round after round."""

    shape: str
    timed: Mapping[str, Timed]
    order: tuple[str, ...]


@dataclass(frozen=True)
class BenchmarkReport:
    """skipped: rivals that did not run, with the reason; writing: of a compiled language model."""

    shapes: tuple[ShapeTimes, ...]
    skipped: Mapping[str, str]
    threads: int
    cpu: str
    writing: Writing | None = None

    @property
    def rounds(self) -> dict[str, dict[str, tuple[float, ...]]]:
        """shape -> name -> ms of every round."""
        return {s.shape: {name: t.rounds for name, t in s.timed.items()} for s in self.shapes}

    @property
    def median(self) -> dict[str, dict[str, float]]:
        """shape -> name -> median ms."""
        return {s.shape: {name: t.median for name, t in s.timed.items()} for s in self.shapes}

    def ratio(self, against: str = "torch", shape: str | None = None) -> float:
        """How many times faster we are: the rival's median over ours, at a shape (the last one if none is given)."""
        known = {s.shape: s for s in self.shapes}
        chosen = self.shapes[-1] if shape is None else known.get(shape)
        if chosen is None:
            raise unknown_name("ratio: shape", str(shape), known)
        if against not in chosen.timed:
            raise unknown_name("ratio: rival", against, chosen.timed)
        return chosen.timed[against].median / chosen.timed["rarefy"].median

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: every round, and the medians and ratios that follow from them."""
        shapes = []
        for s in self.shapes:
            ours = s.timed["rarefy"].median
            rows = {
                name: asdict(t) | {"median": t.median, "best": t.best, "worst": t.worst, "ratio": t.median / ours}
                for name, t in s.timed.items()
            }
            shapes.append({"shape": s.shape, "order": list(s.order), "timed": rows})
        found = {"shapes": shapes, "skipped": dict(self.skipped), "threads": self.threads, "cpu": self.cpu}
        return found if self.writing is None else found | {"writing": self.writing.to_dict()}

    def __str__(self) -> str:
        lines = [f"{self.cpu}, {self.threads} threads"]
        for s in self.shapes:
            lines.append(f"{s.shape:<22} {'median':>9} {'best':>9} {'worst':>9} {'rarefy is':>10}  cosine")
            for name, t in sorted(s.timed.items(), key=lambda item: item[1].median):
                ratio = f"{t.median / s.timed['rarefy'].median:.2f}x"
                note = " WRONG OUTPUT" if t.wrong else f"  int8 by {t.isa}" if t.isa else ""
                times = f"{t.median:>6.2f} ms {t.best:>6.2f} ms {t.worst:>6.2f} ms"
                lines.append(f"  {name:<20} {times} {ratio:>10}  {t.cosine:.4f}{note}")
        if self.writing is not None:
            lines.append(str(self.writing))
        lines += [f"  {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)
