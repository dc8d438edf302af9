"""How well a sparse backbone serves other tasks: a new head on frozen features, or all that is left trained on."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.analysis.held_zeros import Loss, fit, zeros_of
from rarefy.core.errors import DataError
from rarefy.core.registry import method

Extract = Callable[[nn.Module], Callable[[Tensor], Tensor]]
Trainer = Callable[[nn.Module, Sequence[tuple[Tensor, Tensor]], Loss, int], None]  # (model, batches, loss, seed)


@dataclass(frozen=True)
class Task:
    """One downstream task: (inputs, labels) to train on and to be judged by."""

    name: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


@dataclass(frozen=True)
class Transfer:
    """One backbone on one task. error: share of test samples; leaked: weights that were zero and are not any more.

    moved: whether anything of the backbone changed, which linear transfer must not do.
    """

    task: str
    error: float
    leaked: int
    moved: bool
    model: nn.Module

    @property
    def flaw(self) -> str | None:
        """What makes the figure worthless, None where nothing does."""
        return f"{self.leaked} zeros were trained" if self.leaked else None


def linear_transfer(
    backbone: nn.Module,
    task: Task,
    *,
    extract: Extract | None = None,
    cached: bool = True,
    epochs: int = 20,
    rate: float = 1e-2,
    batch: int = 64,
    seed: int = 0,
) -> Transfer:
    """A new head on the features of a frozen backbone.

    extract: how the features are computed, such as by a compiled copy of the backbone; cached: once for all epochs,
    else anew at every step, which gives the same head.
    """
    before = copy.deepcopy(backbone.state_dict())
    features = (extract or (lambda model: model))(backbone.eval())
    with torch.no_grad():
        known = torch.cat([features(x) for x in task.train[0].split(batch)]) if cached else None
        judged = torch.cat([features(x) for x in task.test[0].split(batch)])
    head = _head(judged.shape[1], task.classes, seed)
    inputs = task.train[0] if known is None else known

    def of_batch(model: nn.Module, some: tuple[Tensor, Tensor]) -> Tensor:
        with torch.no_grad():
            x = features(some[0]) if known is None else some[0]
        return nn.functional.cross_entropy(model(x), some[1])

    fit(head, _batches(inputs, task.train[1], batch), of_batch, epochs=epochs, rate=rate, seed=seed)
    with torch.no_grad():
        error = 1.0 - float((head(judged).argmax(1) == task.test[1]).double().mean())
    moved = any(not torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    return Transfer(task.name, error, 0, moved, nn.Sequential(backbone, head))


def full_transfer(
    backbone: nn.Module, task: Task, *, trainer: Trainer | None = None, batch: int = 64, seed: int = 0
) -> Transfer:
    """All that is left of a copy of the backbone is trained with a new head; its zeros have to stay.

    trainer: how; by default 20 epochs of Adam with the zeros held. One that lets zeros move is found out (`flaw`).
    """
    inner = copy.deepcopy(backbone)
    zeros = zeros_of(inner)
    with torch.no_grad():
        width = inner.eval()(task.train[0][:1]).shape[1]
    model = nn.Sequential(inner.train(), _head(width, task.classes, seed))
    train = trainer or (lambda net, data, loss, s: fit(net, data, loss, epochs=20, rate=3e-3, seed=s))
    train(model, _batches(*task.train, batch), _cross_entropy, seed)
    now = zeros_of(inner)
    leaked = sum(int((gone & ~now[name]).sum()) for name, gone in zeros.items())
    model.eval()
    with torch.inference_mode():
        error = 1.0 - float((model(task.test[0]).argmax(1) == task.test[1]).double().mean())
    return Transfer(task.name, error, leaked, True, model)


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _head(width: int, classes: int, seed: int) -> nn.Linear:
    """Drawn by the seed alone, so that all backbones start from the same one."""
    generator, head = torch.Generator().manual_seed(seed), nn.Linear(width, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator) / math.sqrt(width))
        head.bias.zero_()
    return head


def _batches(inputs: Tensor, labels: Tensor, batch: int) -> list[tuple[Tensor, Tensor]]:
    return list(zip(inputs.split(batch), labels.split(batch), strict=True))


@dataclass(frozen=True)
class Row:
    """One backbone. *_increase: mean over tasks of (its error - dense error) / dense error; flaws: of all its tasks."""

    name: str
    sparsity: float
    linear: tuple[Transfer, ...]
    full: tuple[Transfer, ...]
    linear_increase: float
    full_increase: float
    flaws: tuple[str, ...]


@method("sparse-transfer-study", role="study", source="Iofinova et al. 2022, arXiv:2111.13445, sections 3-4")
def transfer_study(
    dense: nn.Module,
    pruned: Mapping[str, nn.Module],
    tasks: Sequence[Task],
    *,
    extract: Extract | None = None,
    trainer: Trainer | None = None,
    seed: int = 0,
) -> list[Row]:
    """Sparse backbones beside the dense one they came from, on every task, by linear and by full transfer.

    A backbone gives features (samples, width) and is left as it was. The first row is the dense one's.
    Source: Iofinova et al. 2022, arXiv:2111.13445, section 3 (average increase of the error relative to dense).
    """
    if not tasks:
        raise DataError("transfer_study: no task was given; give at least one Task")
    rows: list[Row] = []
    for name, backbone in {"dense": dense, **pruned}.items():
        linear = tuple(linear_transfer(backbone, task, extract=extract, seed=seed) for task in tasks)
        full = tuple(full_transfer(backbone, task, trainer=trainer, seed=seed) for task in tasks)
        base = rows[0] if rows else None
        increases = (_increase(linear, base.linear if base else linear), _increase(full, base.full if base else full))
        rows.append(Row(name, _sparsity(backbone), linear, full, *increases, _flaws(linear, full)))
    return rows


def _increase(found: Sequence[Transfer], dense: Sequence[Transfer]) -> float:
    """inf where the dense model makes no error and the sparse one does."""
    gaps = [(f.error - d.error, d.error) for f, d in zip(found, dense, strict=True)]
    return sum(0.0 if gap == 0 else gap / base if base > 0 else math.inf for gap, base in gaps) / len(gaps)


def _flaws(linear: Sequence[Transfer], full: Sequence[Transfer]) -> tuple[str, ...]:
    moved = [f"{t.task}: linear transfer moved the backbone" for t in linear if t.moved]
    return (*moved, *(f"{t.task}: {t.flaw}" for t in full if t.flaw))


def _sparsity(model: nn.Module) -> float:
    zeros = zeros_of(model).values()
    return sum(int(z.sum()) for z in zeros) / max(1, sum(z.numel() for z in zeros))
