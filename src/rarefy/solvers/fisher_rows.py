"""The empirical Fisher information of all weights without its p x p matrix: the gradients themselves."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SolverError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import Supports

_CHUNK = 4096  # weights whose gradients are handled at once
_LARGEST = 1e15  # gradient: products of two and sums of millions of them stay far from the end of float32


@dataclass(frozen=True)
class FisherRows:
    """Gradients of n samples, one row a weight: G (p, n) in parts (p_i, n), one a site; F = G G^T / n.

    Weights that were zero from the start have zero rows: they do not move, so nothing is learnt through them.
    """

    parts: tuple[Tensor, ...]

    @property
    def samples(self) -> int:
        return self.parts[0].shape[1]

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)

    def chunks(self, width: int = _CHUNK) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive weights as (where they lie in the vector of p, their rows), never across two sites."""
        start = 0
        for part in self.parts:
            for rows in part.split(width):
                yield slice(start, start + len(rows)), rows
                start += len(rows)

    def on_samples(self, vector: Tensor) -> Tensor:
        """G^T v: (p,) -> (n,), by how much each sample's loss rises to first order; summed over sites in float64."""
        parts = zip(self.parts, vector.split([len(part) for part in self.parts]), strict=True)
        return torch.stack([(v.to(g.dtype) @ g).double() for g, v in parts]).sum(0)

    def on_weights(self, vector: Tensor) -> Tensor:
        """G u: (n,) -> (p,)."""
        return torch.cat([part @ vector.to(part.dtype) for part in self.parts])

    def gram(self, mask: Tensor | None = None) -> Tensor:
        """G_S^T G_S over the weights S of `mask` (p,): (n, n) in float64, products of a chunk in the rows' own type."""
        total = torch.zeros(self.samples, self.samples, dtype=torch.float64)
        for where, rows in self.chunks():
            chosen = rows if mask is None else rows[mask[where]]
            total += (chosen.t() @ chosen).double()
        return total

    def square_norms(self) -> Tensor:
        """n times the diagonal of F: (p,)."""
        return torch.cat([rows.double().square().sum(1) for _, rows in self.chunks()])

    def at(self, index: Tensor) -> Tensor:
        """The rows of some weights: sorted indices (k,) -> (k, n)."""
        found, start = [], 0
        for part in self.parts:
            inside = index[(index >= start) & (index < start + len(part))]
            found.append(part[inside - start])
            start += len(part)
        return torch.cat(found)


def fisher_rows(supports: Supports, evidence: Sequence[Evidence]) -> FisherRows:
    """The collected gradients as rows; copied only where weights are zero from the start.

    DataError where they are so large that their products would leave float32.
    """
    parts = []
    for site, known in zip(supports.sites, evidence, strict=True):
        rows = known[Need.PER_SAMPLE_GRADIENT].reshape(site.size, -1)
        if rows.numel() and not max(-float(rows.min()), float(rows.max())) <= _LARGEST:
            raise DataError(
                f"{site.name}: the gradient of a sample is beyond {_LARGEST:g}, too large for products of gradients; "
                "scale the loss down, or check it and the data"
            )
        alive = site.alive.reshape(-1, 1)
        parts.append(rows if bool(alive.all()) else rows * alive)
    return FisherRows(tuple(parts))


def damped_cholesky(gram: Tensor, ridge: float) -> tuple[Tensor, float]:
    """(L, used) with L L^T = gram + used I, lower; used is `ridge`, raised tenfold while the factorisation fails."""
    if not bool(gram.isfinite().all()):  # or no ridge would be too large below
        raise SolverError(f"the products of the gradients of {len(gram)} samples are not finite; scale the loss down")
    eye = torch.eye(len(gram), dtype=gram.dtype)
    used = max(ridge, 1e-300)
    limit = max(used, float(gram.diagonal().mean()))
    while used <= 10 * limit:
        lower, failed = torch.linalg.cholesky_ex(gram + used * eye)
        if not failed and bool(lower.isfinite().all()):
            return lower, used
        used *= 10
    raise SolverError(
        f"the gradients of {len(gram)} samples cannot be factorised even with a ridge of {used:g} (asked: {ridge:g}); "
        "give a larger damping or check the gradients"
    )
