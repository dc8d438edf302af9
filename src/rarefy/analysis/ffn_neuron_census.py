"""A census of feed-forward neurons from their activity alone: dead, n-gram detectors, positional."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rarefy.analysis.census_counts import Activity, active_by, collect, ngram_ids
from rarefy.calibration.batches import as_batches
from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.slicing import slice_inputs, slice_outputs, weight_rows
from rarefy.selectors import FeedForward, Threshold, feed_forwards, hidden_selector, input_selector
from rarefy.selectors.positive import Positive
from rarefy.selectors.readers import readers


@dataclass(frozen=True)
class Detector:
    """A neuron that few n-grams explain: n, the n-grams that end at its active tokens, most frequent first."""

    n: int
    ngrams: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Positional:
    """A neuron that follows the position: bits of information about it, and its shape over positions."""

    bits: float
    kind: Literal["range", "oscillatory"]


@dataclass(frozen=True)
class LayerCensus:
    """neurons: how many there are; each is in one of the others at most, by its index."""

    neurons: int
    dead: tuple[int, ...]
    detectors: dict[int, Detector] = field(default_factory=dict)
    positional: dict[int, Positional] = field(default_factory=dict)


@dataclass(frozen=True)
class CensusRules:
    """coverage: share of a neuron's activations that its n-grams explain; most: how many n-grams at most; longest: n;
    fires: it is active at this share of their occurrences or more, else longer ones are tried; share: they make up at
    most this share of the text; times: a neuron with fewer activations is not judged; bits: mutual information with the
    position that makes a neuron positional."""

    coverage: float = 0.95
    most: int = 50
    longest: int = 3
    fires: float = 0.5
    share: float = 0.25
    times: int = 5
    bits: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.coverage <= 1 and 0 < self.share <= 1 and self.most > 0 and self.longest > 0):
            raise SparsityError(f"census: {self} has coverage or share outside (0, 1], or no n-gram at all")


@method("ffn-neuron-census", role="study", source="Voita et al. 2023, arXiv:2309.04827, sections 4 to 6")
def ffn_neuron_census(
    model: nn.Module,
    data: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    rules: CensusRules = CensusRules(),
) -> dict[str, LayerCensus]:
    """{layer: census} of the neurons that down projections (or the `layers` named) read; active is not zero.

    data: batches with `input_ids` (rows, tokens), or tensors of them; a large and diverse text. Shortest n-grams first.
    Positional: information about the position beyond what the tokens there explain.
    Differs: the paper asks for coverage alone. Then every detector of a pair is one of its last token too, and on a
    small vocabulary everything is a detector; `fires` and `share` are ours, at 0 and 1 they do nothing.
    """
    places = readers(model, layers, ("down",))
    activity = collect(model, places, as_batches(data, method="ffn_neuron_census", needed=True))
    return {name: _layer(activity, name, rules) for name in places}


def _layer(activity: Activity, name: str, rules: CensusRules) -> LayerCensus:
    active = activity.active[name]
    count = active.sum(0)
    positional = _positional(activity, active, rules)
    detectors: dict[int, Detector] = {}
    for n in range(1, rules.longest + 1):
        for neuron, found in _detectors(activity, active, n, rules).items():
            if neuron not in detectors and neuron not in positional:
                detectors[neuron] = found
    dead = tuple((count == 0).nonzero().flatten().tolist())
    return LayerCensus(active.shape[1], dead, dict(sorted(detectors.items())), positional)


def _detectors(activity: Activity, active: Tensor, n: int, rules: CensusRules) -> dict[int, Detector]:
    ids, spelt = ngram_ids(activity.tokens, n)
    flat, valid = ids.flatten(), ids.flatten() >= 0
    here, rows = active[valid], flat[valid]
    often = torch.bincount(rows, minlength=len(spelt)).double()
    hits = active_by(here, rows, len(spelt))
    total = active.sum(0).double()
    order = hits.sort(0, descending=True)
    enough = order.values[: rules.most].cumsum(0) >= rules.coverage * total
    found = {}
    for neuron in (enough.any(0) & (total >= rules.times)).nonzero().flatten().tolist():
        needed = int(enough[:, neuron].double().argmax()) + 1
        chosen = order.indices[:needed, neuron]
        there = often[chosen].sum()
        if float(hits[chosen, neuron].sum() / there) >= rules.fires and float(there / often.sum()) <= rules.share:
            found[neuron] = Detector(n, tuple(tuple(spelt[i].tolist()) for i in chosen.tolist()))
    return found


def _positional(activity: Activity, active: Tensor, rules: CensusRules) -> dict[int, Positional]:
    rows, length = activity.tokens.shape
    by_place = active.view(rows, length, -1).double().mean(0)
    expected = _expected(activity, active).view(rows, length, -1).mean(0)
    smooth = 0.5 / rows  # of a share that was counted as 0 or 1
    bits = _kl(by_place.clamp(smooth, 1 - smooth), expected.clamp(smooth, 1 - smooth)).mean(0)
    bits = bits - 1 / (2 * rows * torch.log(torch.tensor(2.0)))  # what chance alone gives, to first order
    mean = by_place.mean(0)
    above = by_place > (by_place.amax(0) + by_place.amin(0)) / 2
    turns = (above[1:] != above[:-1]).sum(0)
    enough = (bits >= rules.bits) & (mean * rows * length >= rules.times)
    return {
        i: Positional(float(bits[i]), "range" if int(turns[i]) <= 2 else "oscillatory")
        for i in enough.nonzero().flatten().tolist()
    }


def _expected(activity: Activity, active: Tensor) -> Tensor:
    """Per token the mean activity of that symbol anywhere: what the text explains of a neuron at a place."""
    ids = activity.tokens.flatten()
    symbols, rows = ids.unique(return_inverse=True)
    hits = active_by(active, rows, len(symbols))
    return (hits / torch.bincount(rows, minlength=len(symbols)).double()[:, None])[rows]


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return p * (p / q).log2() + (1 - p) * ((1 - p) / (1 - q)).log2()


def remove_dead(model: nn.Module, census: dict[str, LayerCensus]) -> dict[str, int]:
    """Cuts the dead neurons of a transformer's feed-forward layers out of their matrices, in place; {layer: how many}.

    On the text of the census the model computes what it did: the neurons gave zero on every token. ModelError, before
    anything is cut, where the census is of other layers or a selector is made for the present width.
    """
    names = {id(module): name for name, module in model.named_modules()}
    layers = {names[id(layer.down)]: layer for layer in feed_forwards(model)}
    kept = {}
    for name, counted in census.items():
        if name not in layers:
            raise ModelError(f"remove_dead: {name!r} is no down projection of this model; they are {[*layers][:8]}...")
        width = weight_rows(layers[name].down).shape[1]
        if counted.neurons != width:
            raise ModelError(f"{name}: has {width} neurons, the census counted {counted.neurons}; take it anew")
        alive = torch.ones(width, dtype=torch.bool)
        alive[list(counted.dead)] = False
        kept[name] = alive.nonzero().flatten().to(weight_rows(layers[name].down).device)
        _require_any_width(name, layers[name])
    for name, keep in kept.items():
        for part in (layers[name].gate, layers[name].up):
            if part is not None:
                slice_outputs(part, keep)
        slice_inputs(layers[name].down, keep)
    return {name: len(census[name].dead) for name in kept}


def _require_any_width(name: str, layer: FeedForward) -> None:
    """ModelError where selectors of neurons are made for the width that is about to change."""
    for selector in (input_selector(layer.down), hidden_selector(layer.activation)):
        fits = isinstance(selector, Threshold | Positive) and selector.width is None
        if selector is not None and not fits:
            raise ModelError(
                f"remove_dead: {name} has a {type(selector).__name__} made for as many neurons as it has; call "
                "detach(model) first, remove the dead neurons, then select anew"
            )


def suppression(down: nn.Module, unembedding: Tensor, census: LayerCensus, lowest: float = 0.1) -> dict[int, float]:
    """{unigram detector: share of its own trigger tokens among the `lowest` share of the logits that it adds to}.

    unembedding: (vocabulary, width). Near 1: the neuron takes its own trigger out of the next-token candidates.
    """
    added = unembedding.detach() @ weight_rows(down)  # (vocabulary, neurons)
    rank = added.argsort(0).argsort(0).double() / len(added)
    found = {}
    for neuron, detector in census.detectors.items():
        if detector.n == 1:
            triggers = torch.tensor([gram[0] for gram in detector.ngrams])
            found[neuron] = float((rank[triggers, neuron] < lowest).double().mean())
    return found
