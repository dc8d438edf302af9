"""The inverse of a Gram matrix that may be singular: damped as little as works, and said so."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SolverError
from rarefy.core.shapes import Float


@dataclass(frozen=True)
class DampedInverse:
    """upper: U with `U^T U = (H + lambda I)^-1`, float64 `(n, n)`; damping: lambda / mean(diag H)."""

    upper: Float[Tensor, "n n"]
    damping: float
    dead: Tensor  # (n,) bool: inputs that were zero for every token


_SMALL = 256  # columns below which the triangular solver is as fast as matrix products
_PART = 1 << 19  # entries reversed at once; a fresh matrix would cost more than the arithmetic on it


def damped_inverse(gram: Float[Tensor, "n n"], damping: float, site: str, limit: float = 1.0) -> DampedInverse:
    """Cholesky factor of the inverse of `gram + lambda I`.

    lambda starts at `damping` times the mean of the diagonal and grows tenfold while the factorisation fails.
    Beyond `limit` times the mean this raises: an identity in its place would be another method.
    Inputs that never fire get a unit diagonal, so that they neither disturb nor matter.
    With J the reversal of the inputs and J (H + lambda I) J = L L^T, U = J L^-1 J: one factorisation and one triangular
    inverse, in the place of one matrix, instead of two factorisations and a full inverse.
    """
    if not gram.sum(dtype=torch.float64).isfinite():
        raise DataError(
            f"{site}: the Gram matrix of its inputs is not finite; the data are too large for float32; scale them "
            f"down, or leave the layer alone with ignore=[{str(site)!r}]"
        )
    diagonal = gram.diagonal().double()
    dead = diagonal <= 0
    mean = diagonal[~dead].mean().item() if bool((~dead).any()) else 1.0
    h = torch.empty(gram.shape, dtype=torch.float64)
    step = max(damping, 1e-8)
    while step <= limit:
        h.copy_(gram).div_(mean)
        h.diagonal().add_(dead.double() + step)
        if _factor(_reverse(h)):
            upper = _reverse(invert_lower(h))
            if bool(upper.sum().isfinite()):
                return DampedInverse(upper, step, dead)
        step *= 10
    raise SolverError(
        f"{site}: the Gram matrix of its inputs is not positive definite even with {limit:g} times its mean "
        f"diagonal added (asked: {damping:g}); give more calibration data or a larger damping"
    )


def _factor(h: Float[Tensor, "n n"]) -> bool:
    """Puts the lower Cholesky factor in the place of a symmetric matrix; False if it is not positive definite."""
    failed = torch.empty(0, dtype=torch.int32)
    by_columns = h.t()  # what the factorisation works in without a copy
    torch.linalg.cholesky_ex(by_columns, upper=True, out=(by_columns, failed))
    return not bool(failed)


def invert_lower(lower: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The inverse of a lower triangular matrix, in its place: [A 0; B C]^-1 = [A^-1 0; -C^-1 B A^-1, C^-1]."""
    n = lower.shape[0]
    if n <= _SMALL:
        eye = torch.eye(n, dtype=lower.dtype)
        return lower.copy_(torch.linalg.solve_triangular(lower, eye, upper=False).tril_())
    half = n // 2
    a, c, b = invert_lower(lower[:half, :half]), invert_lower(lower[half:, half:]), lower[half:, :half]
    b.copy_((c @ b).neg_() @ a)
    return lower


def _reverse(h: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Rows and columns in reverse order, in place: all entries in reverse order."""
    flat = h.view(-1)
    size = flat.numel()
    for start in range(0, size // 2, _PART):
        end = min(size // 2, start + _PART)
        first = flat[start:end].flip(0)
        flat[start:end] = flat[size - end : size - start].flip(0)
        flat[size - end : size - start] = first
    return h
