"""What a streamed pruning did, and the memory that it took."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rarefy.pruning import PruneReport, SiteReport
from rarefy.recipes.memory_child import status


def peak_rss() -> int:
    """Bytes: the most resident memory that this process has had, pages of mapped files included.

    0 where the system does not tell.
    """
    if Path("/proc/self/status").exists():
        return int(status("VmHWM") * 2**20)
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@dataclass(frozen=True)
class FolderReport:
    """What `prune_folder` did.

    parameters: of the model, each once; bytes: of its weight files; peak_rss: bytes, the most of any process that
    worked on it, with the interpreter and the libraries; runs: how many processes that were (1: never interrupted).
    """

    folder: Path
    prune: PruneReport
    parameters: int
    bytes: int
    peak_rss: int
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "report": self.prune.to_dict(),
            "parameters": self.parameters,
            "bytes": self.bytes,
            "peak_rss": self.peak_rss,
            "runs": self.runs,
        }

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], folder: Path) -> "FolderReport":
        found = said["report"]
        keys = ("method", "pattern", "allocation", "skipped", "seconds")
        sites = tuple(site_report(site) for site in found["sites"])
        report = PruneReport(**{key: found[key] for key in keys}, sites=sites)
        return cls(folder, report, *(said[key] for key in ("parameters", "bytes", "peak_rss", "runs")))

    def __str__(self) -> str:
        again = "" if self.runs == 1 else f", gone on with {self.runs - 1} times"
        return (
            f"{self.prune}\n{self.folder}: {self.parameters / 1e9:.3f} B parameters, {self.bytes / 1e9:.2f} GB of "
            f"weights, peak memory {self.peak_rss / 1e9:.2f} GB{again}"
        )


def site_report(said: Mapping[str, Any]) -> SiteReport:
    """A SiteReport from its JSON."""
    return SiteReport(**{**said, "shape": tuple(said["shape"])})


def site_dict(report: SiteReport) -> dict[str, Any]:
    return asdict(report)
