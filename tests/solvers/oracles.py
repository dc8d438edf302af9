"""Slow float64 solutions in numpy, written from the formulas and from nothing of the library."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def damped(gram: Matrix, damping: float) -> Matrix:
    """H + damping * mean(diag H) * I."""
    return gram + damping * np.mean(np.diag(gram)) * np.eye(len(gram))


def obs_left_to_right(weight: Matrix, hessian: Matrix, count: int) -> tuple[Matrix, NDArray[np.bool_]]:
    """Optimal brain surgeon with the order and the choice of SparseGPT for one block of all columns.

    An entry (i, j) costs w^2 / [(H_R)^-1]_jj with R the columns from j on; the `count` dearest of the matrix stay.
    Then column by column each dropped entry is eliminated exactly among the columns that remain: with
    M = (H_R)^-1, w_R -= w_j / M_jj * M_j. Each M is inverted from scratch.
    """
    n = len(hessian)
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(n)]
    cost = weight**2 / np.array([inverse[0, 0] for inverse in inverses])
    keep = np.zeros(weight.size, dtype=bool)
    keep[np.argsort(-cost.ravel(), kind="stable")[:count]] = True
    keep = keep.reshape(weight.shape)
    solved = weight.copy()
    for j, inverse in enumerate(inverses):
        dropped = np.where(keep[:, j], 0.0, solved[:, j])
        solved[:, j:] -= np.outer(dropped / inverse[0, 0], inverse[0])
    return solved * keep, keep


def least_squares(weight: Matrix, x: Matrix, keep: NDArray[np.bool_], ridge: float) -> Matrix:
    """For each row: argmin_v |X (w - v)|^2 + ridge |w - v|^2 over v supported on the row's mask, by lstsq."""
    stacked = np.vstack([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    solved = np.zeros_like(weight)
    for i, (row, mask) in enumerate(zip(weight, keep, strict=True)):
        solved[i, mask] = np.linalg.lstsq(stacked[:, mask], stacked @ row, rcond=None)[0]
    return solved


def output_error(x: Matrix, before: Matrix, after: Matrix) -> float:
    """|X W^T - X V^T|^2 / |X W^T|^2."""
    return float(np.sum((x @ (before - after).T) ** 2) / np.sum((x @ before.T) ** 2))
