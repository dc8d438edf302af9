"""What every pruning call returns: what was done to each layer, what was left alone and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class SiteReport:
    """One layer. zeros and size are counts of weights; error is the relative squared error of the layer's
    output on the calibration data, sum |X W^T - X V^T|^2 / sum |X W^T|^2 (None where no Gram was collected);
    result is what the solver had to say; already is the count of zeros that were there before."""

    name: str
    shape: tuple[int, int]
    asked: float
    zeros: int
    size: int
    already: int
    error: float | None
    seconds: float
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        return self.zeros / self.size

    @property
    def stored_bytes(self) -> int:
        """Of the weight in a file."""
        rows, width = self.shape
        sparse = 4 * (self.size - self.zeros) + rows * ((width + 7) // 8 + 8)
        return int(self.result.get("bytes", sparse))


@dataclass(frozen=True)
class PruneReport:
    """What `prune` did. skipped maps the name of each layer left alone to the reason.

    timing: measured milliseconds of the pruned layers, dense against sparse on this machine (filled in by the
    public `rarefy.prune`, see `recipes.measure`). target: of a call with `target_speedup`, what was asked and what the
    compiled model measured (`recipes.target`). budget: of a call with `size_budget`, the bytes asked for and those of
    the file, and what each layer got (`recipes.size_budget`).
    """

    method: str
    pattern: str
    allocation: str
    sites: tuple[SiteReport, ...]
    skipped: Mapping[str, str]
    seconds: float
    timing: Mapping[str, Any] | None = None
    target: Mapping[str, Any] | None = None
    budget: Mapping[str, Any] | None = None

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of the pruned layers; 0 where a budget left every layer whole."""
        return sum(s.zeros for s in self.sites) / max(1, sum(s.size for s in self.sites))

    @property
    def dense_bytes(self) -> int:
        """float32 bytes of the pruned layers."""
        return sum(4 * s.size for s in self.sites)

    @property
    def sparse_bytes(self) -> int:
        """Bytes of the pruned layers as `save` writes them: bitmask, float32 values and row offsets, or integers and
        scales where the layer was rounded."""
        return sum(s.stored_bytes for s in self.sites)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, totals included."""
        totals = {"sparsity": self.sparsity, "dense_bytes": self.dense_bytes, "sparse_bytes": self.sparse_bytes}
        return asdict(self) | totals

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> "PruneReport":
        """The report of what `to_dict` gave, after JSON too."""
        sites = tuple(SiteReport(**{**site, "shape": tuple(site["shape"])}) for site in said["sites"])
        own = {field.name: said[field.name] for field in fields(cls) if field.name in said}
        return cls(**{**own, "sites": sites})

    def __str__(self) -> str:
        head = f"{'layer':<48} {'shape':>14} {'zeros':>7} {'error':>8}  solver"
        rows = [head] + [_row(site) for site in self.sites]
        rows += [f"{name:<48} left alone: {why}" for name, why in self.skipped.items()]
        rows.append(
            f"{self.method}, {self.pattern}, {self.allocation}: {self.sparsity:.2%} zeros in {len(self.sites)} layers, "
            f"{self.dense_bytes / 1e6:.1f} MB -> {self.sparse_bytes / 1e6:.1f} MB, {self.seconds:.1f} s"
        )
        if self.timing:
            rows.append(
                f"pruned layers at {self.timing['tokens']} tokens: {self.timing['dense_ms']:.2f} ms dense, "
                f"{self.timing['sparse_ms']:.2f} ms sparse ({self.timing['speedup']:.2f}x), measured here"
            )
        if self.target:
            rows.append(
                f"whole model: {self.target['dense_ms']:.2f} ms dense, {self.target['compiled_ms']:.2f} ms compiled "
                f"({self.target['achieved']:.2f}x, {self.target['asked']:g}x was asked), measured here"
            )
        if self.budget:
            rows.append(f"whole file: {self.budget['bytes']} bytes, {self.budget['asked']:.0f} were allowed")
        return "\n".join(rows)


def _row(site: SiteReport) -> str:
    error = "-" if site.error is None else f"{site.error:.4f}"
    said = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in site.result.items())
    return f"{site.name:<48} {site.shape!s:>14} {site.sparsity:>7.2%} {error:>8}  {said}"
