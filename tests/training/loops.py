"""Small models with data and a training loop, for the tests of sparse training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from rarefy.core.registry import Entry, entries, load_all
from rarefy.training import SparseMethod, SparseTrainer

load_all()


@dataclass
class Task:
    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    def loss(self, step: int) -> Tensor:
        x, y = self.batches[step % len(self.batches)]
        return F.cross_entropy(self.model(x), y)


def mlp(width: int = 64, seed: int = 0) -> Task:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))
    return Task(model, _batches((16,)))


def convnet(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(4, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 8))
    return Task(model, _batches((4, 8, 8)))


def grouped(seed: int = 0) -> Task:
    """A convolution of two rows a group: tiles of four rows lie in two groups."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1, groups=16)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8))
    return Task(model, _batches((4, 8, 8)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.rnn(x)[0][:, -1])
        return out


def recurrent(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    return Task(Recurrent(), _batches((6, 8)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(x).mean(1))
        return out


def transformer(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    return Task(Transformer(), _batches((6, 16)))


class Skipping(nn.Module):
    """An expert that some steps do not go through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.expert, self.last = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 8)
        self.routed = True

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        out: Tensor = self.last(F.relu(x + self.expert(x)) if self.routed else x)
        return out


def skipping(seed: int = 0) -> Task:
    torch.manual_seed(seed)
    return Task(Skipping(), _batches((16,)))


def _batches(shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(32, *shape, generator=generator) for _ in range(4)]
    return [(x, x.flatten(1)[:, :8].argmax(1)) for x in inputs]


def train(task: Task, trainer: SparseTrainer, steps: int, first: int = 0) -> Iterator[float]:
    """One loss a step, after the step."""
    for step in range(first, first + steps):
        loss = task.loss(step)
        loss.backward()
        trainer.step()
        trainer.zero_grad()
        yield float(loss.detach())


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def training_methods() -> list[Entry]:
    """Every registered method of the family that is made without further arguments."""
    return [e for e in entries("method") if e.family == "training" and isinstance(e.factory(), SparseMethod)]


STEPS = 24
QUICK: dict[str, dict[str, Any]] = {
    "bdwp": {"pattern": "2:4"},
    "sparse-wavernn": {"pattern": "block:4x1"},
    "blast-block-sparse": {"pattern": "block:4x4"},
}  # options of a method for runs of STEPS steps, where `every` is not enough


def options_of(entry: Entry, every: int = 4) -> dict[str, Any]:
    """Options with which a method does all it does within STEPS steps."""
    import inspect

    given = dict(QUICK.get(entry.id, {}))
    if "every" in inspect.signature(entry.factory).parameters:
        given.setdefault("every", every)
    return given


def start(
    task: Task, entry: Entry | str, optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam, **more: Any
) -> tuple[SparseTrainer, torch.optim.Optimizer]:
    made = optimizer(task.model)
    name, options = (entry, {}) if isinstance(entry, str) else (entry.id, options_of(entry))
    arguments: dict[str, Any] = {"total_steps": STEPS, **options, **more}
    if "sparsity" not in arguments and fixed(name) is None:
        arguments["sparsity"] = 0.75
    return rarefy.sparse_training(task.model, made, name, **arguments), made


def fixed(name: str) -> float | None:
    """The density of the method's own pattern, where that has but one."""
    from rarefy.core.registry import lookup
    from rarefy.patterns.fixed import fixed_density

    made = lookup("method", name).factory()
    return fixed_density(made.pattern)
