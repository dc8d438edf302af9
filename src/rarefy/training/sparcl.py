"""SparCL: continual learning with replay under one sparse budget of weights, gradients and examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.density import density_of
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Allocation
from rarefy.core.registry import method
from rarefy.training.begin import begin
from rarefy.training.continual_scores import ContinualScores
from rarefy.training.example_removal import ExampleRemoval
from rarefy.training.fixed import Fixed
from rarefy.training.held import Held
from rarefy.training.method import SparseMethod
from rarefy.training.products import Products
from rarefy.training.replay import Reservoir, replay_loss
from rarefy.training.sparcl_masks import Job, SparclSettings, expand_masks, update_masks
from rarefy.training.starts import RandomStart
from rarefy.training.trainer import SparseTrainer

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SparclReport:
    """removed: of each task, the indices of the examples that left; mistakes: how often each of its examples was wrong
    while it was trained on; products: multiplications, counted."""

    trainer: SparseTrainer
    scores: ContinualScores | None
    removed: tuple[Tensor, ...]
    mistakes: tuple[Tensor, ...]
    products: Products


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
    job = Job(trainer, chosen, Reservoir(chosen.buffer, trainer.run.generator), Products.of(trainer.run.states))
    table: list[tuple[float, ...]] = []
    for index, (x, y) in enumerate(tasks):
        _learn(job, index, x, y, epochs, batch, look)
        if evaluate is not None:
            table.append(tuple(evaluate(model, task) for task in range(index + 1)))
    scores = ContinualScores(tuple(table)) if table else None
    trainer.detach()
    return SparclReport(trainer, scores, tuple(job.removed), tuple(job.mistakes), job.products)


def _learn(job: Job, task: int, x: Tensor, y: Tensor, epochs: int, batch: int, look: Any) -> None:
    """One task."""
    settings, model = job.settings, job.run.model
    if len(x) != len(y) or not len(x) or y.is_floating_point():
        raise DataError(f"tasks[{task}]: inputs {tuple(x.shape)} and class numbers {tuple(y.shape)} ({y.dtype})")
    removal = ExampleRemoval(len(x), settings.removal, settings.removal_stages)
    gone = [removal.active[:0]]
    if task > 0:
        expand_masks(job)
    for epoch in range(epochs):
        if epoch % settings.every == 0:
            if epoch > 0:
                gone.append(removal.remove())
            update_masks(job, x[removal.active], y[removal.active], first=epoch == 0)
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
        update_masks(job, x[removal.active], y[removal.active], first=False)
    job.removed.append(torch.cat(gone))
    job.mistakes.append(removal.wrong)
