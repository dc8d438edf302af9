"""What `save` says: every tensor, how it was stored, and what that saved."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rarefy.formats.container import Stored


@dataclass(frozen=True)
class SaveReport:
    """aliases: {tied name: name that holds it}, stored once; file_bytes: the weights file on disk with its header;
    companions: other files written beside it. The pruned part is the tensors that were stored sparse."""

    path: str
    tensors: tuple[Stored, ...]
    aliases: Mapping[str, str]
    file_bytes: int
    companions: tuple[str, ...] = ()

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors if none were stored sparse."""
        return sum(t.dense_bytes for t in self.tensors)

    @property
    def pruned(self) -> tuple[Stored, ...]:
        return tuple(t for t in self.tensors if t.encoding != "dense")

    @property
    def pruned_dense_bytes(self) -> int:
        return sum(t.dense_bytes for t in self.pruned)

    @property
    def pruned_file_bytes(self) -> int:
        return sum(t.file_bytes for t in self.pruned)

    @property
    def pruned_share(self) -> float | None:
        """File bytes of the pruned part over its dense bytes; None if nothing was stored sparse."""
        return self.pruned_file_bytes / self.pruned_dense_bytes if self.pruned else None

    def to_dict(self) -> dict[str, Any]:
        totals = ("dense_bytes", "pruned_dense_bytes", "pruned_file_bytes", "pruned_share")
        return asdict(self) | {name: getattr(self, name) for name in totals}

    def __str__(self) -> str:
        rows = [f"{'tensor':<56} {'shape':>16} {'type':>9} {'zeros':>7} {'dense':>10} {'file':>10}"]
        rows += [_row(t) for t in self.pruned]
        left = len(self.tensors) - len(self.pruned)
        rows.append(f"{left} other tensors stored dense, {len(self.aliases)} tied names stored once")
        if minus := sum(t.negative_zeros for t in self.tensors):
            rows.append(f"{minus} zeros of negative sign (-0.0) were stored as +0.0")
        if self.pruned_share is not None:
            before, after = _mb(self.pruned_dense_bytes), _mb(self.pruned_file_bytes)
            rows.append(f"pruned part: {before} -> {after} ({self.pruned_share:.1%})")
        rows.append(f"{self.path}: {_mb(self.dense_bytes)} of tensors -> {_mb(self.file_bytes)} on disk")
        return "\n".join(rows)


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def _row(t: Stored) -> str:
    shape, zeros = "x".join(map(str, t.shape)), t.zeros / math.prod(t.shape)
    return f"{t.name:<56} {shape:>16} {t.dtype:>9} {zeros:>7.2%} {t.dense_bytes:>10} {t.file_bytes:>10}"
