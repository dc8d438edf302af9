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


def damped_inverse(gram: Float[Tensor, "n n"], damping: float, site: str, limit: float = 1.0) -> DampedInverse:
    """Cholesky factor of the inverse of `gram + lambda I`.

    lambda starts at `damping` times the mean of the diagonal and grows tenfold while the factorisation fails.
    Beyond `limit` times the mean this raises: an identity in its place would be another method.
    Inputs that never fire get a unit diagonal, so that they neither disturb nor matter.
    """
    if not gram.isfinite().all():
        raise DataError(f"{site}: the Gram matrix of its inputs is not finite; the data are too large for float32")
    h = gram.double()
    diagonal = h.diagonal()
    dead = diagonal <= 0
    mean = diagonal[~dead].mean().item() if bool((~dead).any()) else 1.0
    h = h / mean + torch.diag(dead.double())
    step = max(damping, 1e-8)
    while step <= limit:
        eye = torch.eye(h.shape[0], dtype=h.dtype) * step
        lower, failed = torch.linalg.cholesky_ex(h + eye)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed and bool(upper.isfinite().all()):
            return DampedInverse(upper, step, dead)
        step *= 10
    raise SolverError(
        f"{site}: the Gram matrix of its inputs is not positive definite even with {limit:g} times its mean "
        f"diagonal added (asked: {damping:g}); give more calibration data or a larger damping"
    )
