"""TEDDY: graph lottery tickets from degrees, and weights projected on the l0 ball after every step."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import DataError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Float, Int, Weight
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.free_pattern import FreePattern
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart
from rarefy.training.together import best_of_all


def edge_scores(edges: Int[Tensor, "2 edges"], nodes: int) -> Float[Tensor, " edges"]:
    """How much each edge matters, larger = keep: `(a_i / deg_i) * (a_j / deg_j)` with `a_i` the mean of deg^-1/2 over
    the neighbours of i. O(edges).

    edges: row 0 the sources, row 1 the targets, each direction its own column; self-loops do not count as neighbours.
    Source: Seo et al. 2024 (TEDDY), arXiv:2402.01261, section 4.1.
    """
    if (
        edges.dim() != 2
        or edges.shape[0] != 2
        or (edges.numel() and not 0 <= int(edges.min()) <= int(edges.max()) < nodes)
    ):
        raise DataError(f"edge_scores: edges {tuple(edges.shape)} have to be (2, edges) with numbers in [0, {nodes})")
    source, target = edges[:, edges[0] != edges[1]]
    degree = torch.zeros(nodes, dtype=torch.float64).index_add_(0, target, torch.ones(len(target), dtype=torch.float64))
    degree = degree.clamp_min(1.0)
    mean = torch.zeros(nodes, dtype=torch.float64).index_add_(0, target, degree[source].rsqrt()) / degree
    share = mean / degree
    return (share[edges[0]] * share[edges[1]]).float()


def keep_edges(edges: Int[Tensor, "2 edges"], nodes: int, sparsity: float) -> Int[Tensor, "2 kept"]:
    """The graph without the `sparsity` of its edges that score lowest; self-loops stay and do not count."""
    loops = edges[0] == edges[1]
    count = exact_count(int((~loops).sum()), density_of(sparsity))
    score = edge_scores(edges, nodes).masked_fill(loops, -1.0)
    return edges[:, keep_top(score[None], count)[0] | loops]


@dataclass(frozen=True)
class ProjectGlobally:
    """After every step the smallest weights of the whole model are zero: `ceil(q N)` of N. The full vector is
    stepped, so any entry may return.

    Source: Seo et al. 2024, arXiv:2402.01261, section 4.2 (projected gradient descent on the l0 ball).
    """

    needs_end: ClassVar[bool] = False

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        scores = [state.value().abs() for state in run.moving]
        if not scores:
            return
        size = sum(state.size for state in run.states)
        zeros = math.ceil((1.0 - run.density) * size - 1e-9)
        held = sum(state.kept for state in run.states if state.name in run.idle)
        for state, mask in zip(run.moving, best_of_all(scores, size - zeros - held), strict=True):
            state.density = int(mask.sum()) / mask.numel()
            run.set_mask(state, mask, state.value().clone())


@dataclass(frozen=True)
class WholeStep:
    """The optimizer steps the whole weight, dropped entries too; the topology makes it sparse again."""

    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@method("teddy", source="Seo et al. 2024, arXiv:2402.01261, sections 4.1 and 4.2", protocols=("score", "pattern"))
def teddy(*, pattern: Pattern = Layerwise(), allocation: Allocation = Uniform()) -> SparseMethod:
    """Projects all weights on the l0 ball after every step; `keep_edges` thins the graph first."""
    free = FreePattern("teddy")
    return SparseMethod(
        DenseStart(), ProjectGlobally(), WholeStep(), pattern=pattern, allocation=allocation, prepare=free
    )
