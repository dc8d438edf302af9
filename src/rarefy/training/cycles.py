"""Trainings that are repeated under tighter masks: what their cycles share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import evaluation
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Mask
from rarefy.training.begin import begin
from rarefy.training.method import SparseMethod
from rarefy.training.run import Run
from rarefy.training.together import together
from rarefy.training.trainer import SparseTrainer
from rarefy.training.weights import find_weights


@dataclass(frozen=True)
class MaskStart:
    """Masks that are given by name."""

    masks: Mapping[str, Mask]

    def __call__(self, run: Run) -> None:
        for state in run.states:
            mask = self.masks[state.name]
            state.density = state.asked = int(mask.count_nonzero()) / mask.numel()
            run.set_mask(state, mask)


@dataclass(frozen=True)
class Watch:
    """Fixed masks, and a look at the model after every step: `look(steps done)`."""

    look: Callable[[int], None]
    needs_end: ClassVar[bool] = False

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        self.look(run.step + 1)


@dataclass(frozen=True)
class Cycle:
    """One training of one model, as the user's `train(model, cycle)` sees it.

    index: which cycle, from 0; member: which of several models of the cycle; seed: for the order of the data and
    whatever else is random; density: of the masks; first_step: the step of the schedule at which the training begins
    (beyond 0 after rewinding). Call `attach(optimizer)` once and use what it gives in the loop.
    """

    index: int
    member: int
    seed: int
    density: float
    first_step: int
    masks: Mapping[str, Mask]
    model: nn.Module
    look: Callable[[int], None]
    ignore: tuple[str, ...] = ()
    attached: list[SparseTrainer] = field(default_factory=list)

    def attach(self, optimizer: Any) -> SparseTrainer:
        """A trainer that keeps the cycle's masks: call `trainer.step()` for `optimizer.step()`."""
        method = SparseMethod(MaskStart(self.masks), Watch(self.look), exact=False)
        trainer = begin(self.model, optimizer, method, name="cycle", sparsity=0.0, ignore=self.ignore, seed=self.seed)
        self.attached.append(trainer)
        return trainer


Train = Callable[[nn.Module, Cycle], None]


def nothing(step: int) -> None:
    """No look."""


def run_cycle(train: Train, cycle: Cycle) -> int:
    """Trains one model; gives the steps that it took, and refuses a training that went past the masks."""
    train(cycle.model, cycle)
    if len(cycle.attached) != 1:
        raise SparsityError(
            f"train: called cycle.attach(optimizer) {len(cycle.attached)} times; call it once and step with the "
            "trainer that it gives"
        )
    return cycle.attached[0].detach().step


def full_masks(model: nn.Module, ignore: Sequence[str]) -> dict[str, Mask]:
    weights, _ = find_weights(model, ignore)
    return {weight.name: torch.ones(weight.shape, dtype=torch.bool) for weight in weights}


def tighter(model: nn.Module, masks: Mapping[str, Mask], density: float, ignore: Sequence[str]) -> dict[str, Mask]:
    """The masks of the largest weights of the whole model at a density, among those that are kept now."""
    weights, _ = find_weights(model, ignore)
    return tightest({w.name: w.read().abs() for w in weights}, masks, density)


def tightest(scores: Mapping[str, Tensor], masks: Mapping[str, Mask], density: float) -> dict[str, Mask]:
    """The masks of the best scores `(out, in)` of all weights together, among those that are kept now."""
    among = [score.masked_fill(~masks[name], float("-inf")) for name, score in scores.items()]
    return {name: kept & masks[name] for name, kept in zip(scores, together(among, density), strict=True)}


def apply(model: nn.Module, masks: Mapping[str, Mask], ignore: Sequence[str]) -> None:
    """Zeroes what the masks drop."""
    for weight in find_weights(model, ignore)[0]:
        weight.write(weight.read(), masks[weight.name])


def levels(sparsity: float, rounds: int) -> list[float]:
    """Densities of the rounds, each the same share of the one before: `(1 - sparsity)^(c / rounds)`."""
    if rounds < 1:
        raise SparsityError(f"rounds: {rounds} is not a number of rounds; give at least 1")
    density = density_of(sparsity)
    if density == 1.0:
        raise SparsityError("sparsity: 0 leaves nothing to prune; give the fraction of zeros of the last round")
    return [density ** (c / rounds) for c in range(1, rounds + 1)]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several states, entry by entry; integers (counters) of the first."""
    if len(states) == 1:
        return dict(states[0])
    first = states[0]
    return {
        name: torch.stack([s[name].double() for s in states]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in first.items()
    }


@torch.no_grad()
def refresh_batch_norm(model: nn.Module, batches: Iterable[Any]) -> None:
    """Statistics of batch normalisation from the data, forgotten first: averaged weights do not have averaged ones."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with evaluation(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
            norm.train()
        try:
            for batch in batches:
                model(*batch) if isinstance(batch, tuple | list) else model(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
