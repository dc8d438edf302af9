"""The masks of SparCL: which weights are kept, and which of them move."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.topk import exact_count, keep_top
from rarefy.training.held import MOVES
from rarefy.training.products import Products
from rarefy.training.replay import Reservoir
from rarefy.training.run import Run
from rarefy.training.state import WeightState
from rarefy.training.trainer import SparseTrainer


@dataclass(frozen=True)
class SparclSettings:
    """alpha, beta: weights of the gradients of the present task and of the buffer in the importance.

    every: epochs between changes of the masks; intra: share of the kept weights that is exchanged within a task; inter:
    share by which the mask grows when a task begins, for the first `every` epochs; gradient_sparsity: share of all
    weights that is not updated (None: all kept ones are); removal: share of a task's examples that leaves, in
    `removal_stages` removals; replay: "er" | "der++"; buffer: examples kept; scored: examples of the task, and of the
    buffer, on which gradients are taken to change the masks.
    """

    alpha: float = 0.5
    beta: float = 1.0
    every: int = 5
    intra: float = 0.05
    inter: float = 0.1
    gradient_sparsity: float | None = None
    removal: float = 0.0
    removal_stages: int = 4
    replay: str = "er"
    buffer: int = 200
    scored: int = 128

    def __post_init__(self) -> None:
        if self.every < 1 or not 0.0 <= self.intra < 1.0 or self.inter < 0.0:
            raise SparsityError(
                f"sparcl: every={self.every}, intra={self.intra}, inter={self.inter}; give at least one epoch and "
                "shares of the kept weights"
            )


@dataclass
class Job:
    """What the parts of one run share."""

    trainer: SparseTrainer
    settings: SparclSettings
    buffer: Reservoir
    products: Products
    expanded: bool = False
    removed: list[Tensor] = field(default_factory=list)
    mistakes: list[Tensor] = field(default_factory=list)

    @property
    def run(self) -> Run:
        return self.trainer.run


def update_masks(job: Job, x: Tensor, y: Tensor, *, first: bool) -> None:
    """Changes the masks (not when a task begins: they were expanded then), and which weights move."""
    settings, run = job.settings, job.run
    if first and settings.gradient_sparsity is None:
        return
    at = torch.randperm(len(x), generator=run.generator)[: settings.scored]
    grads = _gradient_sizes(job, x[at], y[at])
    with torch.no_grad():
        for state, size in zip(run.states, grads, strict=True):
            if not first:
                _exchange(run, state, state.value().abs() + size, 0.0 if job.expanded else settings.intra)
            if settings.gradient_sparsity is not None:
                moving = exact_count(state.mask.numel(), 1.0 - settings.gradient_sparsity)
                ranked = size.masked_fill(~state.mask, -1.0).reshape(1, -1)
                state.extra[MOVES] = keep_top(ranked, moving).reshape(size.shape) & state.mask
    if not first:
        job.expanded = False


def _exchange(run: Run, state: WeightState, importance: Tensor, share: float) -> None:
    """The least important weights go until `1 - share` of the budget is left; as many as are missing come at random."""
    left = state.count - exact_count(state.count, share)
    ranked = importance.float().masked_fill(~state.mask, -1.0)
    stay = keep_top(ranked.reshape(1, -1), min(left, state.kept)).reshape(state.mask.shape) & state.mask
    fresh = torch.where(stay, 2.0, run.rand(state).masked_fill(state.mask, -1.0))
    run.set_mask(state, keep_top(fresh.reshape(1, -1), state.count).reshape(state.mask.shape))


@torch.no_grad()
def expand_masks(job: Job) -> None:
    """Adds random weights, at zero, to every mask."""
    if job.settings.inter == 0.0:
        return
    for state in job.run.states:
        more = min(exact_count(state.count, min(1.0, job.settings.inter)), state.mask.numel() - state.kept)
        ranked = torch.where(state.mask, 2.0, job.run.rand(state))
        job.run.set_mask(state, keep_top(ranked.reshape(1, -1), state.kept + more).reshape(state.mask.shape))
        state.extra[MOVES] = torch.ones_like(state.mask)
    job.expanded = True


def _gradient_sizes(job: Job, x: Tensor, y: Tensor) -> list[Tensor]:
    """`alpha |dL(task)/dw| + beta |dL(buffer)/dw|` of every weight, (out, in)."""
    settings, states = job.settings, job.run.states
    found = [torch.zeros(state.mask.shape) for state in states]
    if settings.alpha == settings.beta == 0.0:
        return found
    model, buffer = job.run.model, job.buffer
    parts: list[tuple[float, Callable[[], Tensor]]] = [(settings.alpha, lambda: _own_loss(model(x), y))]
    if len(buffer):
        held = buffer.draw(min(settings.scored, len(buffer)))
        parts.append((settings.beta, lambda: F.cross_entropy(model(held[0]), held[1])))
    was = model.training
    model.eval()
    for weight, loss in parts:
        grads = torch.autograd.grad(loss(), [s.weight.parameter for s in states], allow_unused=True)
        for total, state, grad in zip(found, states, grads, strict=True):
            if grad is not None:
                total += weight * state.weight.as_matrix(grad).abs()
    model.train(was)
    job.products.count_scoring(states, len(x) + min(settings.scored, len(buffer)))
    return found


def _own_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy over the classes that occur in `y` only."""
    classes, own = y.unique(return_inverse=True)
    return F.cross_entropy(logits[:, classes], own)
