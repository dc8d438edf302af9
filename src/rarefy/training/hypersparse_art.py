"""ART with the HyperSparse loss: a growing penalty that presses small weights only."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.training.free_pattern import FreePattern
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart
from rarefy.training.together import together
from rarefy.training.trial_loss import loss_now, loss_with, sees_loss
from rarefy.training.turns import shared_out, turn

_STEEP = math.atanh(1.0 / math.sqrt(3.0))  # where the curvature of tanh is largest: 0.6585


def hypersparse(weights: Sequence[Tensor], density: float) -> Tensor:
    """sum |w| * S / stopgrad(S) - sum |w|, S = sum tanh(s |w|): its value is 0, its gradient is not.

    Gradient: sign(w) * s * (1 - tanh(s |w|)^2) * sum |w| / S. s = atanh(1 / sqrt 3) / w_k, w_k being the smallest
    magnitude that the asked density keeps over all weights: smaller ones feel the penalty, larger ones hardly.
    Source: Glandorf et al. 2023, arXiv:2308.07163, eq. 4 to 8.
    """
    size = torch.cat([weight.abs().flatten() for weight in weights])
    kept = min(len(size), max(1, exact_count(len(size), density)))
    border = size.detach().kthvalue(len(size) - kept + 1).values.clamp_min(1e-12)
    total = torch.tanh(_STEEP / border * size).sum()
    return size.sum().detach() * total / total.detach().clamp_min(1e-12) - size.sum().detach()


@dataclass(frozen=True)
class HyperSparse:
    """first * growth^t times the HyperSparse loss, t in units of `every` steps since the share `begin`, until the cut.

    l1: the sum of magnitudes instead, the penalty to compare with.
    """

    first: float = 5e-6
    growth: float = 1.05
    every: int = 100
    begin: float = 0.3
    l1: bool = False

    def __call__(self, weights: Sequence[Tensor], run: Run) -> Tensor | None:
        since = run.step - round(self.begin * run.end("hypersparse-art"))
        if since < 0 or "cut" in run.memory:
            return None
        strength = self.first * self.growth ** (since // self.every)
        if self.l1:
            return strength * torch.cat([weight.abs().flatten() for weight in weights]).sum()
        return strength * hypersparse(weights, run.density)


@dataclass(frozen=True)
class CutWhenReady:
    """Cuts all weights together when the pruned net is as good as the net is without the cut, at `end` at the latest.

    "As good" takes the user's data and loss: every `every` steps after `begin` the loss under the masks is compared
    with the loss of the net as it is then, or as it was at `begin`, whichever is larger. The penalty raises the one,
    and the cut costs less and less: waiting for the loss of before the penalty would often mean waiting until `end`.
    Without data the cut comes at `end`.
    """

    every: int
    begin: float
    end: float
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        done, total = run.step + 1, run.end("hypersparse-art")
        first, last = max(1, round(self.begin * total)), round(self.end * total)
        if "cut" in run.memory:
            self._catch_up(run)
        if "cut" in run.memory or done < first:
            return
        looks = (done - first) % self.every == 0 and sees_loss(run)
        if looks and done == first:
            run.memory["dense"] = loss_now(run)
        if done < last and not looks:
            return
        masks = together([state.value().float().abs() for state in run.states], run.density)
        if done >= last or loss_with(run, masks) <= max(run.memory["dense"], loss_now(run)):
            for state, mask in shared_out(run, masks):
                run.set_mask(state, mask)
            run.memory["cut"] = done

    def _catch_up(self, run: Run) -> None:
        """Weights that had no gradient when all were cut keep as many of their largest as they were given then."""
        for state in turn(run, due=False):
            run.set_mask(state, state.pattern.select(state.value().float().abs(), state.density))


@method(
    "hypersparse-art", source="Glandorf et al. 2023, arXiv:2308.07163, section 3", protocols=("transform", "schedule")
)
def hypersparse_art(
    *,
    first: float = 5e-6,
    growth: float = 1.05,
    every: int = 100,
    begin: float = 0.3,
    end: float = 0.75,
) -> SparseMethod:
    """Dense training, then a penalty on small weights that grows until pruning costs nothing, then fine-tuning.

    every: steps of an epoch of the paper, whose penalty is first * growth^epoch from the share `begin` on; with `data`
    and `loss` the cut comes at the epoch at which the pruned net is no worse than the net itself, else, and at the
    latest, at `end`. All weights compete, so layers differ in density.
    Differs: the loss in place of the accuracy decides; the paper keeps the best of the masks it has tried.
    """
    if first < 0.0 or growth < 1.0 or every < 1:
        raise SparsityError(f"hypersparse-art: first={first}, growth={growth}, every={every}; give >= 0, >= 1 and >= 1")
    if not 0.0 <= begin < end <= 1.0:
        raise SparsityError(f"begin={begin}, end={end}: shares of the steps, 0 <= begin < end <= 1")
    penalty = HyperSparse(first, growth, every, begin)
    topology = CutWhenReady(every, begin, end)
    return SparseMethod(DenseStart(), topology, penalty=penalty, prepare=FreePattern("hypersparse-art"), exact=False)
