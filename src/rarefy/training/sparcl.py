"""SparCL: continual learning with replay under one sparse budget of weights, gradients and examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.density import density_of
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Allocation
from rarefy.core.registry import method
from rarefy.core.topk import exact_count, keep_top
from rarefy.training.begin import begin
from rarefy.training.continual_scores import ContinualScores
from rarefy.training.example_removal import ExampleRemoval
from rarefy.training.fixed import Fixed
from rarefy.training.held import MOVES, Held
from rarefy.training.method import SparseMethod
from rarefy.training.products import Products
from rarefy.training.replay import Reservoir, replay_loss
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart
from rarefy.training.state import WeightState
from rarefy.training.trainer import SparseTrainer

Examples = tuple[Tensor, Tensor]


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


@dataclass(frozen=True)
class SparclReport:
    """removed: of each task, the indices of the examples that left; mistakes: how often each of its examples was wrong
    while it was trained on; products: multiplications, counted."""

    trainer: SparseTrainer
    scores: ContinualScores | None
    removed: tuple[Tensor, ...]
    mistakes: tuple[Tensor, ...]
    products: Products


@dataclass
class _Job:
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


@method(
    "sparcl", role="study", source="Wang et al. 2022, arXiv:2209.09476, section 3", protocols=("score", "transform")
)
def sparcl(
    model: nn.Module,
    optimizer: Any,
    tasks: Sequence[Examples],
    *,
    sparsity: float,
    settings: SparclSettings | None = None,
    allocation: Allocation | None = None,
    epochs: int = 10,
    batch: int = 32,
    evaluate: Callable[[nn.Module, int], float] | None = None,
    look: Callable[[SparseTrainer, int, bool], None] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> SparclReport:
    """Learns tasks one after another with a replay buffer, sparse in weights, in gradients and in data.

    Importance: `|w| + alpha |dL(task)/dw| + beta |dL(buffer)/dw|`, L(task) over the classes of the task only.
    Within a task the least important weights go and as many come at random; when a task begins, the mask grows by
    `inter`, and falls back to the budget after `every` epochs. Of the kept weights only those with the largest
    `alpha |dL(task)/dw| + beta |dL(buffer)/dw|` are updated. Examples that are never wrong leave.
    model: gives logits over the classes of all tasks; tasks: (inputs, class numbers). evaluate: `evaluate(model, task)`
    for all tasks so far after each; look: `look(trainer, task, whether the mask is expanded)` after every step.
    """
    chosen = settings or SparclSettings()
    density = density_of(sparsity)
    moving = None if chosen.gradient_sparsity is None else density_of(chosen.gradient_sparsity)
    if moving is not None and moving > density:
        raise SparsityError(
            f"gradient_sparsity: {chosen.gradient_sparsity} updates more than the {density:g} that sparsity={sparsity} "
            "keeps; give at least the sparsity of the weights"
        )
    parts = SparseMethod(RandomStart(), Fixed(), Held(), allocation=allocation or ErdosRenyi(), exact=False)
    trainer = begin(model, optimizer, parts, name="sparcl", sparsity=sparsity, ignore=ignore, seed=seed)
    job = _Job(trainer, chosen, Reservoir(chosen.buffer, trainer.run.generator), Products.of(trainer.run.states))
    table: list[tuple[float, ...]] = []
    for index, (x, y) in enumerate(tasks):
        _learn(job, index, x, y, epochs, batch, look)
        if evaluate is not None:
            table.append(tuple(evaluate(model, task) for task in range(index + 1)))
    scores = ContinualScores(tuple(table)) if table else None
    trainer.detach()
    return SparclReport(trainer, scores, tuple(job.removed), tuple(job.mistakes), job.products)


def _learn(job: _Job, task: int, x: Tensor, y: Tensor, epochs: int, batch: int, look: Any) -> None:
    """One task."""
    settings, model = job.settings, job.run.model
    if len(x) != len(y) or not len(x) or y.is_floating_point():
        raise DataError(f"tasks[{task}]: inputs {tuple(x.shape)} and class numbers {tuple(y.shape)} ({y.dtype})")
    removal = ExampleRemoval(len(x), settings.removal, settings.removal_stages)
    gone = [removal.active[:0]]
    if task > 0:
        _expand(job)
    for epoch in range(epochs):
        if epoch % settings.every == 0:
            if epoch > 0:
                gone.append(removal.remove())
            _update(job, x[removal.active], y[removal.active], first=epoch == 0)
        order = torch.randperm(len(removal.active), generator=job.run.generator)
        for at in removal.active[order].split(batch):
            model.train()
            logits = model(x[at])
            removal.count(at, logits.detach().argmax(1) != y[at])
            extra = replay_loss(model, job.buffer, len(at), settings.replay)
            loss = F.cross_entropy(logits, y[at])
            (loss if extra is None else loss + extra).backward()
            job.trainer.step()
            job.trainer.zero_grad()
            passes = 1 if extra is None else 3 if settings.replay == "der++" else 2
            job.products.count(job.run.states, passes * len(at), len(removal.active) / len(x))
            if epoch == 0:
                job.buffer.add(x[at], y[at], logits)
            if look is not None:
                look(job.trainer, task, job.expanded)
    if job.expanded:  # a task of fewer than `every` epochs
        _update(job, x[removal.active], y[removal.active], first=False)
    job.removed.append(torch.cat(gone))
    job.mistakes.append(removal.wrong)


def _update(job: _Job, x: Tensor, y: Tensor, *, first: bool) -> None:
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
def _expand(job: _Job) -> None:
    """Adds random weights, at zero, to every mask."""
    if job.settings.inter == 0.0:
        return
    for state in job.run.states:
        more = min(exact_count(state.count, min(1.0, job.settings.inter)), state.mask.numel() - state.kept)
        ranked = torch.where(state.mask, 2.0, job.run.rand(state))
        job.run.set_mask(state, keep_top(ranked.reshape(1, -1), state.kept + more).reshape(state.mask.shape))
        state.extra[MOVES] = torch.ones_like(state.mask)
    job.expanded = True


def _gradient_sizes(job: _Job, x: Tensor, y: Tensor) -> list[Tensor]:
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
