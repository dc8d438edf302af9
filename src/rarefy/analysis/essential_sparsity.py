"""Essential sparsity: how many of the smallest weights can go before quality falls off."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.allocations.ranked import Global
from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation, Pattern, Score
from rarefy.core.registry import method
from rarefy.core.site import Site, find_sites
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude

Evaluate = Callable[[nn.Module], float]
GRID = tuple(round(0.025 * i, 3) for i in range(1, 39))


@dataclass(frozen=True)
class Knee:
    """Where a curve of quality over sparsity breaks.

    points: (sparsity, quality), density 1 first. at: the largest sparsity up to which quality is within the tolerance
    of the dense one. bend: the break of the best two straight pieces; slopes: quality a unit of sparsity of the two.
    """

    points: tuple[tuple[float, float], ...]
    at: float
    bend: float
    slopes: tuple[float, float]


def knee(points: Sequence[tuple[float, float]], tolerance: float = 0.01) -> Knee:
    """The knee of (sparsity, quality) points, the first of which is the dense model; larger quality is better.

    tolerance: allowed loss, as a share of the dense quality.
    Raises SparsityError for fewer than four points.
    """
    if len(points) < 4:
        raise SparsityError(f"knee: {len(points)} points show no bend; give the dense model and at least three more")
    dense = points[0][1]
    at = 0.0
    for sparsity, quality in points:
        if quality < dense - tolerance * abs(dense):
            break
        at = sparsity
    x, y = (torch.tensor([p[i] for p in points], dtype=torch.float64) for i in (0, 1))
    fits = [_two_lines(x, y, b) for b in x[1:-1].tolist()]
    _, bend, first, second = min(fits, key=lambda fit: fit[0])
    return Knee(tuple((float(s), float(q)) for s, q in points), at, bend, (first, second))


def _two_lines(x: Tensor, y: Tensor, bend: float) -> tuple[float, float, float, float]:
    """(squared error, bend, slope before, slope after) of the best continuous line with one bend there."""
    design = torch.stack([torch.ones_like(x), x, (x - bend).clamp_min(0)], 1)
    solved = torch.linalg.lstsq(design, y[:, None], driver="gelsd").solution[:, 0]
    error = float((design @ solved - y).square().sum())
    return error, bend, float(solved[1]), float(solved[1] + solved[2])


@method("essential-sparsity", role="study", source="Jaiswal et al. 2023, arXiv:2306.03805, section 3 (definition 1)")
def essential_sparsity(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    sparsities: Sequence[float] | None = None,
    spread: Allocation | None = None,
    pattern: Pattern | None = None,
    group: int | None = None,
    score: Score | None = None,
    tolerance: float = 0.01,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> Knee:
    """The sparsity after which one-shot pruning without retraining begins to cost, for the whole model.

    evaluate: the quality of a model, larger is better. spread: `Global` ranking by the score (the default), `Uniform`
    a layer; score: magnitude, as in the paper, or another that needs no data. The model is as before after.
    group: M of an N:M sweep, N from M - 1 to 1, which takes the place of sparsities, spread and pattern.
    """
    sites = find_sites(model, ignore)[0]
    chosen = score if score is not None else Magnitude()
    allocation = spread if spread is not None else Global(chosen)
    steps = [(sparsity, pattern or Layerwise()) for sparsity in sparsities or GRID]
    if group is not None:
        if group < 4 or any(given is not None for given in (sparsities, spread, pattern)):
            raise SparsityError(
                f"essential_sparsity: group={group} sweeps N:{group} by itself; give at least 4, and leave sparsities, "
                "spread and pattern out"
            )
        steps, allocation = [(1.0 - n / group, NM(n, group)) for n in range(group - 1, 0, -1)], Uniform()
    points = [(0.0, evaluate(model))]
    for sparsity, kept in steps:
        with pruned(sites, 1.0 - sparsity, allocation, kept, chosen, seed):
            points.append((sparsity, evaluate(model)))
    return knee(points, tolerance)


def essential_by_layer(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    sparsities: Sequence[float] = GRID,
    score: Score | None = None,
    tolerance: float = 0.01,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Knee]:
    """{layer: the knee when it alone is pruned}; see `essential_sparsity`."""
    sites = find_sites(model, ignore)[0]
    dense, found = evaluate(model), {}
    for site in sites:
        points = [(0.0, dense)]
        for sparsity in sparsities:
            with pruned([site], 1.0 - sparsity, Uniform(), Layerwise(), score or Magnitude(), seed):
                points.append((sparsity, evaluate(model)))
        found[site.name] = knee(points, tolerance)
    return found


@contextmanager
def pruned(
    sites: Sequence[Site], density: float, allocation: Allocation, pattern: Pattern, score: Score, seed: int = 0
) -> Iterator[None]:
    """While open, the sites are pruned by a score that needs no data; after, they are as before."""
    evidence = {site.name: Evidence(site.name, seed=seed) for site in sites}
    before = [site.parameter.detach().clone() for site in sites]
    densities = allocation(sites, density, evidence)
    try:
        for site in sites:
            weight = site.read()
            site.write(weight, pattern.select(score(weight, evidence[site.name]), densities[site.name]))
        yield
    finally:
        with torch.no_grad():
            for site, value in zip(sites, before, strict=True):
                site.parameter.copy_(value)


def emergence(
    checkpoints: Sequence[Mapping[str, Tensor]], sparsity: float = 0.5, near: float = 1e-2
) -> list[tuple[float, float]]:
    """For each checkpoint of a training run: (share of weights near zero, overlap of its mask with the last one's).

    near: what counts as zero, as a share of the largest size of the last checkpoint. The mask keeps the largest
    1 - sparsity of all weights; the overlap is the share of kept weights that the last mask keeps too.
    Source: Jaiswal et al. 2023, arXiv:2306.03805, section 4 (abrupt sparsification).
    """
    flat = [torch.cat([w.detach().float().flatten() for w in c.values() if w.dim() > 1]).abs() for c in checkpoints]
    limit = near * flat[-1].max()
    count = max(1, round((1.0 - sparsity) * flat[-1].numel()))
    last = torch.zeros_like(flat[-1], dtype=torch.bool).index_fill(0, flat[-1].topk(count).indices, True)
    return [(float((w < limit).float().mean()), float(last[w.topk(count).indices].float().mean())) for w in flat]
