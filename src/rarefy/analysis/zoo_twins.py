"""A population of models beside its sparse twins, so that what is said of a pruning method comes with a spread."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError
from rarefy.core.registry import method
from rarefy.core.site import find_sites

Sparsify = Callable[[nn.Module, float, int], None]  # (model, sparsity, number of the model): in place


@dataclass(frozen=True)
class Twins:
    """One method at one sparsity over the population, a value a model.

    accuracy: of the twin; original: of the model it came from; agreement: share of samples that both call the same;
    layers: {layer: mean share of zeros}.
    """

    sparsity: float
    accuracy: tuple[float, ...]
    original: tuple[float, ...]
    agreement: tuple[float, ...]
    layers: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.accuracy) / len(self.accuracy)

    @property
    def spread(self) -> float:
        """Standard deviation of the accuracies."""
        return float(torch.tensor(self.accuracy, dtype=torch.float64).std())

    @property
    def correlation(self) -> float:
        """Pearson's, between the accuracies of twins and originals; NaN where one of them does not vary."""
        both = torch.tensor([self.accuracy, self.original], dtype=torch.float64)
        x, y = both - both.mean(1, keepdim=True)
        scale = float(x.norm() * y.norm())
        return float(x @ y) / scale if scale > 0 else math.nan


@method(
    "sparsified-model-zoo-twins", role="study", source="Honegger et al. 2023, arXiv:2304.13718, sections 3 (zoos) and 4"
)
def zoo_twins(
    zoo: Sequence[nn.Module],
    sparsify: Sparsify,
    inputs: Tensor,
    labels: Tensor,
    *,
    sparsities: Sequence[float] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95),
) -> list[Twins]:
    """What a method does to a population of trained models: one `Twins` a sparsity. The models stay as they are.

    sparsify: prunes its model in place and trains it on where the method says so; the number of the model seeds it.
    inputs, labels: of the test set, classes along the last axis of what a model gives.
    """
    if len(zoo) < 2 or len(inputs) != len(labels):
        raise DataError(
            f"zoo_twins: {len(zoo)} models, {len(inputs)} inputs, {len(labels)} labels; give two models or more and a "
            "label for every input"
        )
    calls = [_called(model, inputs) for model in zoo]
    original = tuple(_share(call, labels) for call in calls)
    return [_twins(zoo, sparsify, inputs, labels, calls, original, sparsity) for sparsity in sparsities]


def _twins(
    zoo: Sequence[nn.Module],
    sparsify: Sparsify,
    inputs: Tensor,
    labels: Tensor,
    calls: list[Tensor],
    original: tuple[float, ...],
    sparsity: float,
) -> Twins:
    accuracy, agreement, layers = [], [], []
    for number, (model, call) in enumerate(zip(zoo, calls, strict=True)):
        twin = copy.deepcopy(model)
        if sparsity > 0:
            sparsify(twin, sparsity, number)
        mine = _called(twin, inputs)
        accuracy.append(_share(mine, labels))
        agreement.append(_share(mine, call))
        layers.append({site.name: float((site.read() == 0).double().mean()) for site in find_sites(twin)[0]})
    mean = {name: sum(known[name] for known in layers) / len(layers) for name in layers[0]}
    return Twins(sparsity, tuple(accuracy), original, tuple(agreement), mean)


def _called(model: nn.Module, inputs: Tensor) -> Tensor:
    was = model.training
    model.eval()
    with torch.inference_mode():
        called: Tensor = model(inputs).argmax(-1)
    model.train(was)
    return called


def _share(called: Tensor, wanted: Tensor) -> float:
    return float((called == wanted).double().mean())


@dataclass(frozen=True)
class Lead:
    """How much better `first` is than `second` on the same models: mean difference and its interval."""

    sparsity: float
    difference: float
    interval: tuple[float, float]

    @property
    def sure(self) -> bool:
        """The interval does not hold 0."""
        return self.interval[0] > 0 or self.interval[1] < 0


def lead(first: Twins, second: Twins, *, level: float = 0.95, draws: int = 4000, seed: int = 0) -> Lead:
    """Paired bootstrap over the models, percentile interval. Raises DataError for other models or sparsities."""
    if first.original != second.original or first.sparsity != second.sparsity:
        raise DataError("lead: the two were not measured on the same models at the same sparsity; use one zoo for both")
    gaps = torch.tensor(first.accuracy, dtype=torch.float64) - torch.tensor(second.accuracy, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = gaps[torch.randint(0, len(gaps), (draws, len(gaps)), generator=generator)].mean(1)
    tail = (1 - level) / 2
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Lead(first.sparsity, float(gaps.mean()), (low, high))


def layer_distance(first: Twins, second: Twins) -> float:
    """Sum over layers of the difference of their mean shares of zeros."""
    return sum(abs(share - second.layers[name]) for name, share in first.layers.items())
