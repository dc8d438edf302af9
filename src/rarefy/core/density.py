"""The one place where the public word `sparsity` becomes the inner word `density`."""

from numbers import Real

from rarefy.core.errors import SparsityError


def density_of(sparsity: object) -> float:
    """`1 - sparsity` for a sparsity in [0, 1).

    >>> density_of(0.75)
    0.25
    """
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real):
        raise SparsityError(f"sparsity: {sparsity!r} is not a number; give the fraction of zeros, e.g. 0.7")
    zeros = float(sparsity)
    if not 0.0 <= zeros < 1.0:
        percent = f"; did you mean {zeros / 100:g}?" if 1.0 < zeros < 100.0 else ""
        raise SparsityError(f"sparsity: {sparsity!r} is outside [0, 1); give the fraction of zeros{percent}")
    return 1.0 - zeros
