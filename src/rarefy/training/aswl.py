"""ASWL: each layer's density is the output of an attention unit that learns together with the weights."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count, keep_top
from rarefy.training.free_pattern import FreePattern
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import MagnitudeStart
from rarefy.training.state import WeightState
from rarefy.training.straight_through import StraightThrough

_HIDDEN = 8


def slope(state: WeightState, density: float, band: float = 0.05) -> float:
    """dL / d density of one weight: its size times the mean of g * w just around the threshold of magnitude.

    A little more density adds the weights that come next; each changes the loss by g * w to first order, g being the
    gradient at the masked weight. Looked at are the `band` of entries below the threshold and as many above it.
    """
    grad, weight = state.grad(), state.value()
    if grad is None:
        return 0.0
    size = weight.numel()
    below = keep_top(weight.float().abs().reshape(1, -1), exact_count(size, max(0.0, density - band)))
    above = keep_top(weight.float().abs().reshape(1, -1), exact_count(size, min(1.0, density + band)))
    near = (above & ~below).reshape(weight.shape)
    return float((grad * weight)[near].mean()) * size if bool(near.any()) else 0.0


def attention(squeezed: Tensor, units: list[Tensor]) -> Tensor:
    """Densities (layers,) in (0, 1): sigmoid(b2 + W2 relu(W1 z)), z the layers' mean magnitudes over their mean."""
    inner, outer, bias = units
    return torch.sigmoid(bias + outer @ torch.relu(inner @ (squeezed / squeezed.mean())))


def budget(densities: Tensor, sizes: Tensor, count: int) -> list[int]:
    """Whole numbers of kept entries in proportion to the densities, `count` in all, between 1 and each layer's size.

    Where so many cannot be, as near to that as can be.
    """
    if not len(sizes):
        return []
    count = min(int(sizes.sum()), max(len(sizes), count))
    low, high = 0.0, 1.0 / float(densities.min().clamp_min(1e-9))
    for _ in range(60):
        middle = (low + high) / 2.0
        if float((densities * middle).clamp_max(1.0).mul(sizes).sum()) < count:
            low = middle
        else:
            high = middle
    kept = [min(int(n), max(1, int(d * high * n))) for d, n in zip(densities.tolist(), sizes.tolist(), strict=True)]
    order = sorted(range(len(kept)), key=lambda i: -sizes[i])
    while sum(kept) != count:
        step = 1 if sum(kept) < count else -1
        free = [i for i in order if (kept[i] < sizes[i] if step > 0 else kept[i] > 1)]
        for i in free[: abs(count - sum(kept))]:
            kept[i] += step
    return kept


@dataclass(frozen=True)
class LearnRatios:
    """Masks of the largest weights anew at every step, at the densities of the attention units; fixed from `end` on.

    The units descend slope * density over the layers, scaled to the largest slope, plus
    pull * (mean density / asked - 1)^2; at `end` densities are scaled such that the asked count is met exactly.
    """

    rate: float
    pull: float
    end: float
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        if run.step < round(self.end * run.end("aswl")):
            self._learn(run)
        return False

    def after(self, run: Run) -> None:
        last = max(1, round(self.end * run.end("aswl")))
        if run.step + 1 > last:
            return
        sizes = torch.tensor([float(s.mask.numel()) for s in run.states])
        densities = attention(_squeeze(run), self._units(run))
        moves = torch.tensor([s.name not in run.idle for s in run.states])
        if run.step + 1 == last:
            held = sum(s.kept for s in run.states if s.name in run.idle)
            counts = budget(densities[moves], sizes[moves], exact_count(int(sizes.sum()), run.density) - held)
        else:
            pairs = zip(densities[moves].tolist(), run.moving, strict=True)
            counts = [max(1, exact_count(s.mask.numel(), d)) for d, s in pairs]
        for state, count in zip(run.moving, counts, strict=True):
            score = state.value().float().abs().reshape(1, -1)
            run.set_mask(state, keep_top(score, count).reshape(state.mask.shape))

    def _units(self, run: Run) -> list[Tensor]:
        """The attention's tensors; made at the first step such that every layer begins at the asked density."""
        names, layers = ("inner", "outer", "bias"), len(run.states)
        if "inner" not in run.memory:
            run.memory["inner"] = torch.randn(_HIDDEN, layers, generator=run.generator) / layers**0.5
            run.memory["outer"] = torch.zeros(layers, _HIDDEN)
            run.memory["bias"] = torch.full((layers,), run.density).clamp(1e-4, 1 - 1e-4).logit()
        return [run.memory[name] for name in names]

    def _learn(self, run: Run) -> None:
        units = [unit.clone().requires_grad_(True) for unit in self._units(run)]
        sizes = torch.tensor([float(s.mask.numel()) for s in run.states])
        with torch.enable_grad():
            densities = attention(_squeeze(run), units)
            slopes = run.agreed(
                torch.tensor([slope(s, d) for s, d in zip(run.states, densities.tolist(), strict=True)])
            )
            task = (slopes / slopes.abs().max().clamp_min(1e-30) * densities / run.density).mean()
            mean = (densities * sizes).sum() / sizes.sum()
            grads = torch.autograd.grad(task + self.pull * (mean / run.density - 1.0) ** 2, units)
        for name, unit, grad in zip(("inner", "outer", "bias"), units, grads, strict=True):
            run.memory[name] = (unit - self.rate * grad).detach()


def _squeeze(run: Run) -> Tensor:
    return torch.stack([state.value().float().abs().mean() for state in run.states])


@method("aswl", source="He et al. 2021, arXiv:2111.02399, section 3", protocols=("allocation", "transform"))
def aswl(*, rate: float = 0.05, pull: float = 4.0, end: float = 0.75) -> SparseMethod:
    """Learns how sparse each layer should be while it trains: attention units give densities, magnitude masks.

    The forward pass sees the sparse weights, the gradient updates the dense ones (straight-through), so weights return
    until the share `end` of total_steps, when the masks are fixed at exactly the asked sparsity. rate: of the units;
    pull: towards the asked sparsity.
    Differs: the abstract alone was at hand. What it says (a ratio for each layer from layer-wise attention, dense and
    sparse weights tracked together) is here; how the ratio gets its gradient is ours: see `slope`.
    """
    if rate <= 0.0 or pull < 0.0 or not 0.0 < end <= 1.0:
        raise SparsityError(f"aswl: rate={rate}, pull={pull}, end={end}; give > 0, >= 0 and a share 0 < end <= 1")
    topology = LearnRatios(rate, pull, end)
    return SparseMethod(MagnitudeStart(), topology, StraightThrough(), prepare=FreePattern("aswl"), exact=False)
