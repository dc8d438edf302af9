"""Selecting the neurons of feed-forward layers by what their activation gives: what CATS and CHESS share."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rarefy.activations.job import Job, Placed
from rarefy.activations.quantiles import cutoff
from rarefy.calibration.magnitudes import Magnitudes
from rarefy.calibration.taps import Tap, tap
from rarefy.core.errors import ModelError
from rarefy.selectors.attach import Masking, select_hidden
from rarefy.selectors.masked import sizes
from rarefy.selectors.places import FeedForward
from rarefy.selectors.threshold import Threshold


def activation_of(layer: FeedForward) -> nn.Module:
    """The activation module of a layer; ModelError where the class calls a function."""
    if not isinstance(layer.activation, nn.Module):
        raise ModelError(
            f"{layer.name}: its activation {layer.activation} is a function, which takes no hooks; make it a module"
        )
    return layer.activation


def hidden_thresholds(job: Job, weights: Mapping[str, Tensor] | None = None) -> dict[str, Threshold]:
    """{layer: the quantile of |activation| * weight at the job's sparsity}, in one pass."""
    seen = {layer.name: Magnitudes() for layer in job.layers}

    factor = weights or {}

    def look(name: str) -> Tap:
        return lambda a: seen[name].add(sizes(a, factor.get(name)))

    outputs = {activation_of(layer): look(layer.name) for layer in job.layers}
    tap(job.model, job.batches, outputs=outputs, run=job.run)
    made = {}
    for name, histogram in seen.items():
        made[name] = Threshold(cutoff(histogram, job.sparsity), factor.get(name))
    return made


def attach_hidden(layers: Sequence[FeedForward], made: Mapping[str, Masking], asked: float) -> list[Placed]:
    """Attaches a selector to the activation of each layer; its zeros save rows of up and columns of down."""
    placed = []
    for layer in layers:
        module = activation_of(layer)
        select_hidden(module, made[layer.name])
        placed.append(Placed(layer.name, "hidden", module, made[layer.name], asked, saved(layer)))
    return placed


def saved(layer: FeedForward) -> tuple[nn.Module, ...]:
    """The projections of which a neuron that is zero saves a row or a column."""
    return (layer.up, layer.down) if layer.kind == "gated" else (layer.down,)
