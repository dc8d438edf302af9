"""Continual learning in one backbone: each task trains a sparse net of its own, and its weights are frozen after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, unknown_name
from rarefy.core.protocols import Allocation
from rarefy.core.registry import method
from rarefy.core.shapes import Mask, Weight
from rarefy.training.begin import begin
from rarefy.training.clock import Clock
from rarefy.training.continual_scores import ContinualScores
from rarefy.training.continual_tasks import Continual, Stage, TaskNet, freeze
from rarefy.training.drop_grow import DropGrow, Grow
from rarefy.training.fixed import Fixed
from rarefy.training.growth import GrowGradient, GrowMoment, GrowRandom, GrowUnfired
from rarefy.training.held import MOVES, Held
from rarefy.training.method import SparseMethod, Topology
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.trainer import SparseTrainer
from rarefy.training.weights import find_weights

GROWTHS: dict[str, Grow] = {
    "random": GrowRandom(),
    "unfired": GrowUnfired(),
    "gradient": GrowGradient(),
    "momentum": GrowMoment(),
}
LOW_SPARSITY = 0.9  # up to here ERK did better than uniform ratios in the paper, beyond it not


@dataclass(frozen=True)
class Reuse:
    """A growth rule under which weights of earlier tasks come with their values, others as the rule says."""

    inner: Grow
    values_of: dict[str, Tensor]

    @property
    def before(self) -> bool:
        return self.inner.before

    def __call__(self, run: Run, state: WeightState) -> Weight:
        return self.inner(run, state)

    def values(self, run: Run, state: WeightState) -> Tensor | None:
        fresh = self.inner.values(run, state)
        held = self.values_of[state.name]
        return torch.where(state.extra[MOVES], 0.0 if fresh is None else fresh.to(held.dtype), held)


@dataclass(frozen=True)
class FirstMask:
    """A random mask over all weights, free or frozen, at the allocation's density; frozen ones are held."""

    weights: dict[str, Tensor]
    frozen: dict[str, Mask]

    def __call__(self, run: Run) -> None:
        for state in run.states:
            state.put(self.weights[state.name])
            state.extra[MOVES] = ~self.frozen[state.name]
            run.set_mask(state, state.pattern.select(run.rand(state), state.density))


def ratios_for(sparsity: float) -> Allocation:
    """ERK up to 90 % zeros, uniform ratios beyond, which were the better ones there (section 5 of the paper)."""
    return ErdosRenyi() if sparsity <= LOW_SPARSITY else Uniform()


@method("cl-dst", role="study", source="Yildirim et al. 2023, arXiv:2308.14831, section 3", protocols=("pattern",))
def continual_training(
    backbone: nn.Module,
    heads: Sequence[nn.Module],
    train: Callable[[nn.Module, Stage], None],
    *,
    sparsity: float,
    total_steps: int,
    growth: str = "random",
    allocation: Allocation | None = None,
    every: int = 100,
    fraction: float = 0.3,
    end: float = 0.75,
    evaluate: Callable[[nn.Module, int], float] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> Continual:
    """Learns tasks one after another, each as a sparse net in the same backbone, and forgets nothing.

    A task draws a mask over all weights, those of earlier tasks too: it may use them, but they do not change. While it
    is trained, the smallest weights of its mask go and others come; then its weights are frozen and its mask kept.
    heads: one a task; train: `train(model, stage)` trains in place, stepping with `stage.attach(optimizer)`;
    total_steps: of one task. growth: "random" | "unfired" (never kept before in this task) | "gradient" | "momentum" |
    "static" (the mask stays). allocation: by default `ratios_for(sparsity)`. evaluate: `evaluate(model, task)`, called
    for all tasks so far after each.
    Differs: what is not trained sparse (biases, norms, buffers) is kept for each task, so that nothing is forgotten at
    all; free weights begin each task with the values of the untrained backbone.
    """
    if growth not in (*GROWTHS, "static"):
        raise unknown_name("growth", growth, (*GROWTHS, "static"))
    if not heads:
        raise ModelError("heads: there is no task; give one head module for each")
    density_of(sparsity)
    sites = find_weights(backbone, ignore)[0]
    weights = {s.name: s.read().to(s.parameter.dtype) for s in sites}
    nothing = {s.name: torch.zeros(s.shape, dtype=torch.bool) for s in sites}
    state = Continual(backbone, weights, nothing, [], tuple(ignore))
    spread = allocation if allocation is not None else ratios_for(sparsity)
    table: list[tuple[float, ...]] = []
    for index, head in enumerate(heads):
        topology = _topology(growth, state.weights, every, fraction, end)
        start = FirstMask(state.weights, state.frozen)
        chosen = SparseMethod(start, topology, Held(growth == "momentum"), allocation=spread)
        common: dict[str, Any] = {"name": "cl-dst", "sparsity": sparsity, "ignore": ignore, "seed": seed + index}

        def attach(optimizer: Any, chosen: SparseMethod = chosen, common: dict[str, Any] = common) -> SparseTrainer:
            return begin(backbone, optimizer, chosen, total_steps=total_steps, **common)

        stage = Stage(index, seed + index, attach)
        train(TaskNet(backbone, head), stage)
        freeze(state, stage, head)
        if evaluate is not None:
            table.append(tuple(evaluate(state.model(task), task) for task in range(index + 1)))
    state.scores = ContinualScores(tuple(table)) if table else None
    return state


def _topology(growth: str, weights: dict[str, Tensor], every: int, fraction: float, end: float) -> Topology:
    if growth == "static":
        return Fixed()
    return DropGrow(Reuse(GROWTHS[growth], weights), clock=Clock(every, 0.0, end), initial=fraction)
