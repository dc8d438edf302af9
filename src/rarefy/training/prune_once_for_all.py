"""Prune once for all: prune a language model upstream, with distillation and a rewound rate; then lock the zeros."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.training.begin import begin
from rarefy.training.gmp import gmp
from rarefy.training.report import TrainingReport
from rarefy.training.static import static
from rarefy.training.trainer import SparseTrainer


@dataclass(frozen=True)
class Rewound:
    """A factor of the learning rate: linear down to 0, but at `rewind` it returns to its value at `begin`.

    From there it goes down to 0 at `total` again. Source: Zafrir et al. 2021, arXiv:2111.05754, section 3.2.

    >>> rate = Rewound(begin=20, rewind=60, total=100)
    >>> [round(rate(t), 3) for t in (0, 20, 59, 60, 80)]
    [1.0, 0.8, 0.41, 0.8, 0.4]
    """

    begin: int
    rewind: int
    total: int

    def __call__(self, step: int) -> float:
        if step < self.rewind:
            return 1.0 - step / self.total
        return (1.0 - self.begin / self.total) * (self.total - step) / (self.total - self.rewind)


def distilled(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """T^2 KL(teacher || student) of logits (..., classes), mean over all positions."""
    ours = F.log_softmax(student.flatten(0, -2) / temperature, -1)
    theirs = F.log_softmax(teacher.flatten(0, -2) / temperature, -1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


@method("prune-once-for-all", role="study", source="Zafrir et al. 2021, arXiv:2111.05754, section 3")
def prune_once_for_all(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], tuple[Tensor, Tensor]],
    *,
    sparsity: float,
    steps: int,
    teacher: nn.Module | None = None,
    lr: float = 1e-4,
    every: int = 100,
    start: float = 0.2,
    end: float = 0.6,
    distill: float = 1.0,
    temperature: float = 2.0,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> TrainingReport:
    """Prunes a pre-trained model on its pre-training data, in place, to be fine-tuned for any task later.

    loss(model, batch): the pre-training loss and the logits it came from. teacher: the model as it is now without it;
    the trained loss is loss + distill * T^2 KL(teacher || student). AdamW with the learning rate `Rewound`: gradual
    magnitude pruning between the shares `start` and `end` of the steps, then the rate of `start` again. Then fine-tune
    with `pattern_lock`; `core.quantized.quantize_weight` keeps the zeros for int8.
    """
    if not batches:
        raise DataError("prune_once_for_all: no batches of the pre-training data")
    if steps < 1 or not 0.0 <= start < end < 1.0:
        raise SparsityError(
            f"prune_once_for_all: steps={steps}, start={start}, end={end}; give >= 1, 0 <= start < end < 1"
        )
    teacher = copy.deepcopy(model) if teacher is None else teacher
    was = teacher.training
    teacher.eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    rate = Rewound(round(start * steps), round(end * steps), steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    trainer = begin(
        model, optimizer, gmp(every=every, begin=start, end=end), name="prune-once-for-all", sparsity=sparsity,
        total_steps=steps, ignore=ignore, seed=seed,
    )  # fmt: skip
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = batches[int(torch.randint(len(batches), (1,), generator=order))]
        value, logits = loss(model, batch)
        with torch.no_grad():
            _, wanted = loss(teacher, batch)
        (value + distill * distilled(logits, wanted, temperature)).backward()
        trainer.step()
        trainer.zero_grad()
        schedule.step()
    teacher.train(was)
    return trainer.detach()


def pattern_lock(model: nn.Module, optimizer: Any, *, ignore: Sequence[str] = ()) -> SparseTrainer:
    """A trainer for fine-tuning whose zeros are those the model has now, whatever the task."""
    return begin(model, optimizer, static(start="given"), name="static", ignore=ignore)
