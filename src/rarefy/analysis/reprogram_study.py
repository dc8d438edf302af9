"""Whether lottery tickets can be reprogrammed, and how reliable they are: beside their dense parent."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.analysis.calibration_error import Reliability, reliability
from rarefy.analysis.held_zeros import zeros_of
from rarefy.analysis.reprogramming import AsInput, Reprogrammed, ReprogramSettings, reprogram
from rarefy.analysis.transfer_study import Task, linear_transfer
from rarefy.core.errors import DataError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count


@dataclass(frozen=True)
class Outcome:
    """One net on one task by one way ("linear" | "reprogramming") with a share of the data; moved: it changed."""

    name: str
    sparsity: float
    upstream: float
    task: str
    way: str
    share: float
    accuracy: float
    reliability: Reliability
    moved: bool


@dataclass(frozen=True)
class Canvas:
    """How images of a task come into the net: see `Reprogrammed`."""

    channels: int
    size: tuple[int, int]
    inner: tuple[int, int]
    as_input: AsInput


@method(
    "reprogram-lottery-tickets",
    role="study",
    source="Misra et al. 2023, arXiv:2308.14969, section 3",
    protocols=("score",),
)
def reprogram_study(
    nets: Mapping[str, nn.Module],
    tasks: Sequence[Task],
    canvas: Canvas,
    upstream: Callable[[nn.Module], float],
    *,
    features: Callable[[nn.Module], nn.Module],
    shares: Sequence[float] = (1.0,),
    settings: ReprogramSettings | None = None,
    seed: int = 0,
) -> list[Outcome]:
    """Frozen nets on other tasks, by a new linear head and by visual reprogramming; accuracy and calibration.

    nets: such as the dense parent and tickets of several sparsities (`rarefy.training.lottery`); choose the parent of
    equal accuracy with `match_upstream`. tasks: images (samples, channels, h, w) and labels. upstream: accuracy on the
    task that the nets were made for. features: the part of a net whose outputs a linear head reads, given flat or whole
    as `canvas.as_input` makes it. shares: of the training data, for learning from few.
    """
    if not nets or not tasks:
        raise DataError("reprogram_study: give at least one net and one task")
    found = []
    for name, net in nets.items():
        before = copy.deepcopy(net.state_dict())
        score, sparsity = upstream(net), _sparsity(net)
        for task in tasks:
            for share in shares:
                some = _share(task, share, seed)
                logits = {"linear": _linear(features(net), some, canvas, seed)}
                logits["reprogramming"] = _reprogrammed(net, some, canvas, settings or ReprogramSettings(), seed)
                state = net.state_dict()
                moved = any(not torch.equal(value, state[key]) for key, value in before.items())
                for way, out in logits.items():
                    accuracy = float((out.argmax(1) == task.test[1]).double().mean())
                    sure = reliability(out, task.test[1])
                    found.append(Outcome(name, sparsity, score, task.name, way, share, accuracy, sure, moved))
    return found


def match_upstream(checkpoints: Sequence[tuple[nn.Module, float]], accuracy: float) -> nn.Module:
    """Of checkpoints of the dense parent with their accuracies, the one nearest to a ticket's."""
    if not checkpoints:
        raise DataError("match_upstream: there is no checkpoint; keep some of the dense training")
    return min(checkpoints, key=lambda entry: abs(entry[1] - accuracy))[0]


def _share(task: Task, share: float, seed: int) -> Task:
    """The task with a share of its training data, the same for all nets."""
    x, y = task.train
    count = exact_count(len(x), share)
    if count < 1:
        raise DataError(f"shares: {share} of {len(x)} samples of {task.name} is none")
    at = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return Task(task.name, (x[at], y[at]), task.test, task.classes)


def _linear(features: nn.Module, task: Task, canvas: Canvas, seed: int) -> Tensor:
    """Test logits of a linear head; images are brought to the whole input's size first."""
    full = [_whole(x, canvas) for x in (task.train[0], task.test[0])]
    flat = Task(task.name, (full[0], task.train[1]), (full[1], task.test[1]), task.classes)
    head = linear_transfer(features, flat, seed=seed).model
    with torch.no_grad():
        logits: Tensor = head(full[1])
    return logits


def _whole(x: Tensor, canvas: Canvas) -> Tensor:
    return canvas.as_input(nn.functional.interpolate(x, size=canvas.size, mode="bilinear", align_corners=False))


def _reprogrammed(net: nn.Module, task: Task, canvas: Canvas, settings: ReprogramSettings, seed: int) -> Tensor:
    model = Reprogrammed(net, canvas.channels, canvas.size, canvas.inner, task.classes, canvas.as_input)
    reprogram(model, *task.train, settings, seed)
    with torch.no_grad():
        logits: Tensor = model(task.test[0])
    return logits


def _sparsity(net: nn.Module) -> float:
    zeros = zeros_of(net).values()
    return sum(int(z.sum()) for z in zeros) / max(1, sum(z.numel() for z in zeros))
