"""Where the time of a call goes: a row a step, with what the step moves and computes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rarefy.engine.ceiling import Ceiling
from rarefy.engine.demand import Step
from rarefy.ops import kernels
from rarefy.ops import native as native_kernels


@dataclass(frozen=True)
class StepRow:
    """share: of the whole call's time; gflops: on non-zeros only; roofline: see `Ceiling.share`."""

    name: str
    kind: str
    kernel: str
    ms: float
    share: float
    nbytes: float | None
    gbps: float | None
    gflops: float | None
    roofline: float | None


@dataclass(frozen=True, eq=False)
class Profile(Mapping[str, float]):
    """The steps of one call in order. As a mapping: milliseconds by kind of step, and "whole" of the call.

    whole_ms: of the call as users make it, measured apart: steps that are timed one by one do not add up to it exactly.
    runs: which variant was profiled.
    """

    rows: tuple[StepRow, ...]
    whole_ms: float
    runs: str
    threads: int
    ceiling: Ceiling

    @property
    def by_kind(self) -> dict[str, float]:
        """Milliseconds by kind of step, most first."""
        found: dict[str, float] = {}
        for row in self.rows:
            found[row.kind] = found.get(row.kind, 0.0) + row.ms
        return dict(sorted(found.items(), key=lambda pair: -pair[1]))

    def __getitem__(self, kind: str) -> float:
        return self.whole_ms if kind == "whole" else self.by_kind[kind]

    def __iter__(self) -> Iterator[str]:
        return iter((*self.by_kind, "whole"))

    def __len__(self) -> int:
        return len(self.by_kind) + 1

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        lines = [_HEAD.format("step", "kind", "ms", "share", "MB", "GB/s", "GFLOP/s", "roofline") + "  kernel"]
        for row in self.rows:
            cells = (f"{row.ms:.4f}", f"{row.share:.1%}", _number(row.nbytes, 1e-6), _number(row.gbps))
            rates = (_number(row.gflops), "-" if row.roofline is None else f"{row.roofline:.0%}")
            lines.append((_HEAD.format(row.name[-46:], row.kind, *cells, *rates) + f"  {row.kernel}").rstrip())
        kinds = ", ".join(f"{kind} {ms:.3f}" for kind, ms in self.by_kind.items())
        dense = ", ".join(f"{kind} {rate:.0f}" for kind, rate in self.ceiling.gflops.items())
        lines.append(
            f"ms by kind: {kinds}; the whole call {self.whole_ms:.3f}, {self.threads} threads, runs {self.runs}"
        )
        lines.append(f"measured here: {self.ceiling.gbps:.1f} GB/s from memory, dense GFLOP/s: {dense}")
        return "\n".join(lines)


_HEAD = "{:<46} {:<12} {:>9} {:>7} {:>8} {:>7} {:>8} {:>8}"


def _number(value: float | None, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value * unit:.2f}"


def profile_of(steps: Sequence[Step], whole_ms: float, runs: str, threads: int, limits: Ceiling) -> Profile:
    """The report of timed steps."""
    total = sum(step.ms for step in steps) or 1.0
    types = {kernel.name: kernel.activations for kernel in kernels()} if native_kernels.available() else {}
    rows = tuple(_row(step, total, types.get(step.demand.kernel, "fp32"), limits) for step in steps)
    return Profile(rows, whole_ms, runs, threads, limits)


def _row(step: Step, total: float, kind: str, limits: Ceiling) -> StepRow:
    need, seconds = step.demand, step.ms / 1e3
    gbps = need.nbytes / seconds / 1e9 if need.nbytes is not None and seconds > 0 else None
    gflops = need.flops / seconds / 1e9 if need.flops is not None and seconds > 0 else None
    roofline = limits.share(gbps, gflops, kind)
    share = step.ms / total
    return StepRow(step.name, step.kind, need.kernel, step.ms, share, need.nbytes, gbps, gflops, roofline)
