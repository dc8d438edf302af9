"""How dense what the layers of a model read is: a layer, a token, and a batch of tokens together."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.errors import SparsityError
from rarefy.selectors.readers import readers


@dataclass(frozen=True)
class LayerDensity:
    """Of one layer's inputs, |x| > above counts as active.

    density: mean over tokens; spread: of the tokens' densities, their quantiles at 0, 5, 50, 95 and 100 %;
    never: share of inputs that no token activates; union: {tokens: expected share of inputs that at least one of so
    many tokens, drawn without replacement, activates}.
    """

    density: float
    spread: tuple[float, float, float, float, float]
    never: float
    union: dict[int, float]


@dataclass(frozen=True)
class ActivationStats:
    """{layer: its density} over `tokens` tokens of data; `print` shows a table."""

    layers: dict[str, LayerDensity]
    tokens: int
    above: float

    @property
    def density(self) -> float:
        """Mean over layers."""
        return sum(layer.density for layer in self.layers.values()) / len(self.layers)

    def __str__(self) -> str:
        sizes = next(iter(self.layers.values())).union
        wide = max(len(name) for name in self.layers)
        head = " ".join(f"of {n:>3}" for n in sizes)
        lines = [f"{'layer':<{wide}} density  5 %  95 %  never  {head}   ({self.tokens} tokens, |x| > {self.above:g})"]
        for name, d in self.layers.items():
            union = " ".join(f"{share:6.1%}" for share in d.union.values())
            lines.append(
                f"{name:<{wide}} {d.density:6.1%} {d.spread[1]:6.1%} {d.spread[3]:6.1%} {d.never:6.1%} {union}"
            )
        return "\n".join(lines)


def activation_stats(
    model: nn.Module,
    data: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    above: float = 0.0,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
) -> ActivationStats:
    """What the projections of a transformer (or the linear `layers` named) read, over the tokens of `data`.

    data: batches of model inputs; padding does not count. above: what |x| has to exceed to be active; 0 counts exact
    nonzeros, so that a SiLU model is dense. batches: numbers of tokens whose union is asked; those larger than the data
    are left out. The model stays as it is.
    """
    if not 0.0 <= above < math.inf:
        raise SparsityError(
            f"activation_stats: above={above} is negative or no finite number; 0 counts what is not zero"
        )
    if wrong := [n for n in batches if n < 1]:
        raise SparsityError(f"activation_stats: batches has {wrong[0]}; a union is of 1 token or more")
    found = as_batches(data, method="activation_stats", needed=True)
    places = readers(model, layers)
    counts: dict[str, Tensor] = {}
    tokens: dict[str, list[Tensor]] = {name: [] for name in places}
    for inputs in layer_inputs(model, places, found):
        for name, x in inputs.items():
            active = x.abs() > above
            counts[name] = counts.get(name, 0) + active.sum(0)
            tokens[name].append(active.double().mean(1))
    made = {name: _density(counts[name], torch.cat(tokens[name]), batches) for name in places}
    return ActivationStats(made, sum(len(part) for part in next(iter(tokens.values()))), above)


def _density(count: Tensor, tokens: Tensor, batches: Sequence[int]) -> LayerDensity:
    marks = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=tokens.dtype, device=tokens.device)
    low, few, half, many, high = torch.quantile(tokens, marks).tolist()
    grown = {n: union_share(count, len(tokens), n) for n in batches if n <= len(tokens)}
    return LayerDensity(float(tokens.mean()), (low, few, half, many, high), float((count == 0).double().mean()), grown)


def union_share(count: Tensor, total: int, drawn: int) -> float:
    """Mean over neurons of P(at least one of `drawn` tokens activates it), of `total` tokens `count` (width,) do so.

    1 - C(total - count, drawn) / C(total, drawn): exact for draws without replacement, so nothing is sampled.

    >>> union_share(torch.tensor([0, 1, 2]), 2, 1)
    0.5
    """
    silent = (total - count).double()
    none = torch.ones_like(silent)
    for i in range(drawn):
        none = none * (silent - i).clamp_min(0.0) / (total - i)
    return float((1.0 - none).mean())


def growth(stats: ActivationStats, part: str) -> Mapping[int, float]:
    """{tokens: mean union over the layers whose name ends in `part`}, e.g. "down_proj"."""
    chosen = [layer.union for name, layer in stats.layers.items() if name.endswith(part)]
    if not chosen:
        raise SparsityError(f"growth: no layer's name ends in {part!r}; there are {', '.join(stats.layers)}")
    return {n: sum(union[n] for union in chosen) / len(chosen) for n in chosen[0]}
