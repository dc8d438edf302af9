"""The one place where the public word `sparsity` becomes the inner word `density`."""

import math

from rarefy.core.errors import SparsityError


def density_of(sparsity: float) -> float:
    """`1 - sparsity` for a sparsity in [0, 1).

    >>> density_of(0.75)
    0.25
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float):
        raise SparsityError(f"sparsity: {sparsity!r} is not a number; give the fraction of zeros, e.g. 0.7")
    if math.isnan(sparsity) or not 0.0 <= sparsity < 1.0:
        percent = f"; did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        raise SparsityError(f"sparsity: {sparsity!r} is outside [0, 1); give the fraction of zeros{percent}")
    return 1.0 - float(sparsity)
