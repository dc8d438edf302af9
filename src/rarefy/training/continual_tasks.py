"""What tasks leave in a shared backbone: masks, frozen weights, heads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.bits import pack_bits, unpack_bits
from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Mask
from rarefy.training.continual_scores import ContinualScores
from rarefy.training.trainer import SparseTrainer
from rarefy.training.weights import find_weights


class TaskNet(nn.Module):
    """The backbone with the head of one task."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.head(self.backbone(*args, **kwargs))


@dataclass
class Stage:
    """The training of one task, as the user's `train(model, stage)` sees it: call `attach(optimizer)` once."""

    index: int
    seed: int
    start: Callable[[Any], SparseTrainer]
    attached: list[SparseTrainer] = field(default_factory=list)

    def attach(self, optimizer: Any) -> SparseTrainer:
        """A trainer that keeps the task's net sparse and the earlier tasks' weights as they are."""
        self.attached.append(self.start(optimizer))
        return self.attached[-1]


@dataclass(frozen=True)
class TaskRecord:
    """What one task leaves: masks (bits, by weight), everything else of the backbone (biases, norms), its head.

    kept: weights of the task; fresh: those that no earlier task had.
    """

    masks: dict[str, Tensor]
    others: dict[str, Tensor]
    head: nn.Module
    kept: int
    fresh: int


@dataclass
class Continual:
    """All tasks in one backbone. weights, frozen: (out, in) by weight; scores: None without `evaluate`."""

    backbone: nn.Module
    weights: dict[str, Tensor]
    frozen: dict[str, Mask]
    tasks: list[TaskRecord]
    ignore: tuple[str, ...] = ()
    scores: ContinualScores | None = None

    @property
    def used(self) -> float:
        """The share of the backbone's weights that some task has."""
        return sum(int(m.sum()) for m in self.frozen.values()) / sum(m.numel() for m in self.frozen.values())

    def masks(self, task: int) -> dict[str, Mask]:
        """The masks of a task: name -> `(out, in)`, True = kept."""
        return {n: unpack_bits(bits, self.weights[n].shape[1]) for n, bits in self.tasks[task].masks.items()}

    def model(self, task: int) -> nn.Module:
        """The net of a task. It shares the backbone: the net of another task holds until this is called again."""
        record, masks = self.tasks[task], self.masks(task)
        for weight in find_weights(self.backbone, self.ignore)[0]:
            weight.write(self.weights[weight.name], masks[weight.name])
        with torch.no_grad():
            tensors = dict(others_of(self.backbone, self.ignore))
            for name, value in record.others.items():
                tensors[name].copy_(value)
        return TaskNet(self.backbone, record.head)


def others_of(backbone: nn.Module, ignore: Sequence[str]) -> list[tuple[str, Tensor]]:
    """Parameters that are not trained sparse, and buffers."""
    sparse = {id(weight.parameter) for weight in find_weights(backbone, ignore)[0]}
    named = [*backbone.named_parameters(), *backbone.named_buffers()]
    return [(name, tensor) for name, tensor in named if id(tensor) not in sparse]


def freeze(state: Continual, stage: Stage, head: nn.Module) -> None:
    """Stores what the task has learned."""
    if len(stage.attached) != 1:
        raise SparsityError(
            f"train: called stage.attach(optimizer) {len(stage.attached)} times for task {stage.index}; call it once "
            "and step with the trainer that it gives"
        )
    trainer = stage.attached[0]
    trainer.detach()
    fresh = 0
    for found in trainer.run.states:
        new = found.mask & ~state.frozen[found.name]
        fresh += int(new.sum())
        state.weights[found.name][new] = found.value()[new]
        state.frozen[found.name] |= found.mask
    masks = {name: pack_bits(mask) for name, mask in trainer.masks.items()}
    others = {name: value.detach().clone() for name, value in others_of(state.backbone, state.ignore)}
    state.tasks.append(TaskRecord(masks, others, head, sum(s.kept for s in trainer.run.states), fresh))
