"""Small problems of the empirical Fisher, their explicit matrices in float64, and brute force over supports."""

from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import SiteSupport, Supports
from rarefy.patterns.unstructured import Layerwise

Matrix = NDArray[np.float64]


def problem(p: int, n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """(weights (p,), gradients (p, n)): correlated directions, so that weights can make up for each other."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(p, p, generator=generator, dtype=dtype)
    scale = torch.logspace(0, -1.5, p, dtype=dtype)
    grads = mix @ (scale[:, None] * torch.randn(p, n, generator=generator, dtype=dtype)) / p**0.5
    return torch.randn(p, generator=generator, dtype=dtype), grads


def given(weight: Tensor, grads: Tensor, kept: int, sites: int = 1) -> tuple[Supports, list[Evidence]]:
    """One budget of `kept` weights over the vector cut into `sites` rows, each a site (1, p / sites) of its own."""
    width = len(weight) // sites
    parts, evidence = [], []
    for i in range(sites):
        where = slice(i * width, (i + 1) * width)
        parts.append(SiteSupport(f"site {i}", Layerwise(), kept / len(weight), (weight[where] != 0)[None]))
        evidence.append(Evidence(f"site {i}", {Need.PER_SAMPLE_GRADIENT: grads[where][None]}, grads.shape[1]))
    return Supports(tuple(parts), kept), evidence


def fisher(grads: Tensor, damping: float) -> Matrix:
    """lambda I + G G^T / n."""
    g = grads.double().numpy()
    return g @ g.T / g.shape[1] + damping * np.eye(len(g))


def objective(weight: Matrix, center: Matrix, grads: Matrix, damping: float, first: float) -> float:
    """1/2 |G^T (w - c) + first e|^2 + n lambda / 2 |w - c|^2."""
    n = grads.shape[1]
    residual = grads.T @ (weight - center) + first
    return float(0.5 * residual @ residual + 0.5 * n * damping * (weight - center) @ (weight - center))


def best_on(support: Matrix, center: Matrix, grads: Matrix, damping: float, first: float) -> Matrix:
    """Its minimum over weights on a boolean support, by the normal equations."""
    n = grads.shape[1]
    hessian = grads @ grads.T + n * damping * np.eye(len(center))
    right = hessian @ center - first * grads.sum(1)
    found = np.zeros_like(center)
    found[support] = np.linalg.solve(hessian[np.ix_(support, support)], right[support])
    return found


def brute_force(center: Matrix, grads: Matrix, kept: int, damping: float, first: float) -> float:
    """The least objective over all supports of `kept` weights."""
    least = np.inf
    for chosen in combinations(range(len(center)), kept):
        support = np.zeros(len(center), dtype=bool)
        support[list(chosen)] = True
        found = best_on(support, center, grads, damping, first)
        least = min(least, objective(found, center, grads, damping, first))
    return float(least)
