"""The inverse of the damped empirical Fisher F = lambda I + G G^T / n, in blocks or whole, never as p x p."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rarefy.solvers.fisher_rows import FisherRows, damped_cholesky

_AT_ONCE = 1 << 25  # entries of block inverses held at once (256 MB in float64)
_STEP = 64  # gradients that the recursion takes at once


@runtime_checkable
class FisherInverse(Protocol):
    """F^-1 by what pruning asks of it."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """(p,) float64."""

    @abstractmethod
    def times(self, vector: Tensor) -> Tensor:
        """F^-1 v: (p,) -> (p,) float64."""


def woodbury(rows: Tensor, damping: float, samples: int) -> Tensor:
    """Inverses (blocks, b, b) of lambda I + G G^T / n for the rows (blocks, b, n) of each block.

    Starts at I / lambda and takes gradients in turn: P <- P - P g (n I + g^T P g)^-1 g^T P. With one gradient at a
    time that is the recursion of the paper; several at a time give the same with matrix products.
    Source: Singh and Alistarh 2020 (WoodFisher), arXiv:2004.14340, section 3.2.
    """
    blocks, b, n = rows.shape
    inverse = (torch.eye(b, dtype=torch.float64) / damping).expand(blocks, b, b).clone()
    for start in range(0, n, _STEP):
        g = rows[:, :, start : start + _STEP].double()
        image = inverse @ g
        inner = g.transpose(1, 2) @ image
        inner.diagonal(dim1=1, dim2=2).add_(samples)
        inverse -= image @ torch.linalg.solve(inner, image.transpose(1, 2))
    return inverse


@dataclass(frozen=True)
class BlockInverse:
    """Inverses of the diagonal blocks of F only, `block` consecutive weights of a site each.

    Blocks are inverted when asked for, some at a time, so memory does not grow with the model.
    """

    rows: FisherRows
    damping: float
    block: int

    def _inverses(self) -> Iterator[tuple[slice, Tensor]]:
        """(where, inverses (blocks, b, b)) for consecutive whole blocks, and for the rest of each site."""
        start = 0
        for part in self.rows.parts:
            whole = len(part) // self.block * self.block
            width = max(1, _AT_ONCE // self.block**2) * self.block
            for some in [*part[:whole].split(width), part[whole:]]:
                b = min(self.block, len(some))
                if b:
                    where = slice(start, start + len(some))
                    yield where, woodbury(some.reshape(-1, b, some.shape[1]), self.damping, self.rows.samples)
                start += len(some)

    def diagonal(self) -> Tensor:
        return torch.cat([inverse.diagonal(dim1=1, dim2=2).reshape(-1) for _, inverse in self._inverses()])

    def times(self, vector: Tensor) -> Tensor:
        found = [
            (inverse @ vector[where].double().reshape(len(inverse), -1, 1)).reshape(-1)
            for where, inverse in self._inverses()
        ]
        return torch.cat(found)


@dataclass(frozen=True)
class RowInverse:
    """The whole F^-1 = (I - Z Z^T) / lambda with Z = G L^-T (p, n), L L^T = n lambda I + G^T G.

    A column of Z is, up to a factor, the vector F_{i-1}^-1 g_i of the recursion over gradients, so that products cost
    two passes over Z. Source: Frantar et al. 2021 (M-FAC), arXiv:2107.03356, section 3.1 (static algorithm).
    Differs: the coefficients of the recursion come from one Cholesky factorisation of the n x n matrix of inner
    products, to which it is equal, instead of gradient by gradient.
    """

    z: FisherRows
    damping: float

    def diagonal(self) -> Tensor:
        return (1.0 - self.z.square_norms()).clamp_min(1e-12) / self.damping

    def times(self, vector: Tensor) -> Tensor:
        v = vector.double()
        inner = torch.zeros(self.z.samples, dtype=torch.float64)
        for where, rows in self.z.chunks():
            inner += v[where] @ rows.double()
        images = [v[where] - rows.double() @ inner for where, rows in self.z.chunks()]
        return torch.cat(images) / self.damping


def row_inverse(rows: FisherRows, damping: float) -> RowInverse:
    """Costs n^2 p for the inner products and as much for Z, which takes as many bytes as the gradients."""
    lower, used = damped_cholesky(rows.gram(), rows.samples * damping)
    parts = []
    for part in rows.parts:
        z = torch.empty_like(part)
        for start in range(0, len(part), 4096):
            some = slice(start, start + 4096)
            z[some] = torch.linalg.solve_triangular(lower, part[some].double().t(), upper=False).t().to(z.dtype)
        parts.append(z)
    return RowInverse(FisherRows(tuple(parts)), used / rows.samples)
