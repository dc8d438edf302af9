"""What each layer takes at each density, and what a whole model takes with all of them: measured."""

import copy
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from rarefy.allocations.given import Given
from rarefy.calibration.batches import as_call
from rarefy.core.protocols import Pattern
from rarefy.core.site import Site
from rarefy.engine import compile as compile_model
from rarefy.engine.cell import Types
from rarefy.engine.plan import time_layer, why_dense
from rarefy.engine.precision import Precision
from rarefy.engine.times import TimeTable
from rarefy.engine.timing import interleaved
from rarefy.patterns.fixed import fixed_density
from rarefy.pruning import PruneReport
from rarefy.pruning import prune as prune_only

TIMED = (0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02)
_ROUNDS = 31
_DISTURBED = 1.25  # times the dense model's least time
_TRIES = 5
_BUSY = 1.6  # a kernel that was timed beside a dense layer slower than this, times its least, was disturbed


class LayerTimes:
    """`times(site, density)`: milliseconds of the layer alone, sparse or dense, whichever is faster.

    Random weights of the site's shape with the pattern's zeros are timed at `TIMED` densities (once a shape and a
    machine); between these the time is interpolated, and what was measured while something else ran is left out.
    precision: the types that the model is compiled with; in narrow ones a whole layer has kernels too. A layer that has
    no sparse kernel counts nothing: its time is part of the rest of the model.
    """

    def __init__(self, pattern: Pattern, tokens: Mapping[str, int], precision: Precision = Precision()) -> None:
        self._pattern, self._tokens, self._precision = pattern, tokens, precision
        self._types = Types(precision.weights, precision.activations)
        self._table = TimeTable(partial(time_layer, precision=precision))
        self._curves: dict[Any, tuple[list[float], list[float]]] = {}

    def __call__(self, site: Site, density: float) -> float:
        if why_dense(site, 1.0, self._precision) is not None or site.name not in self._tokens:
            return 0.0
        densities, times = self._curve(site)
        return _between(densities, times, density)

    def _curve(self, site: Site) -> tuple[list[float], list[float]]:
        bias = site.module.bias is not None
        key = (site.shape, bias, self._tokens[site.name])
        if key not in self._curves:
            only = fixed_density(self._pattern)
            measured = TIMED if only is None else (only,)
            found = [self._ms(site, density, bias) for density in sorted(measured)]
            dense = min(dense for dense, _ in found)  # one layer's dense time, measured with each: the least disturbed
            whole = dense if self._precision.exact else min(self._ms(site, 1.0, bias))
            calm = [(d, t) for d, (beside, t) in zip(sorted(measured), found, strict=True) if beside <= _BUSY * dense]
            self._curves[key] = [*(d for d, _ in calm), 1.0], _falling([*(min(dense, t) for _, t in calm), whole])
        return self._curves[key]

    def _ms(self, site: Site, density: float, bias: bool) -> tuple[float, float]:
        """(dense, best sparse) milliseconds."""
        weight = torch.randn(site.shape, generator=torch.Generator().manual_seed(0))
        if density < 1.0:
            weight = weight * self._pattern.select(weight.abs(), density)
        added = torch.zeros(site.shape[0]) if bias else None
        ms = self._table.times(weight, added, self._tokens[site.name], self._types).ms
        return ms["dense"], min((t for name, t in ms.items() if name != "dense"), default=ms["dense"])


def _falling(times: Sequence[float]) -> list[float]:
    """Times by rising density, none above that of a denser weight: the rest is noise."""
    return list(accumulate(reversed(times), min))[::-1]


def _between(known: Sequence[float], times: Sequence[float], density: float) -> float:
    """The time at a density, straight between the neighbours; the least time below the first."""
    if density <= known[0]:
        return times[0]
    i = bisect_left(known, density)
    share = (density - known[i - 1]) / (known[i] - known[i - 1])
    return times[i - 1] + share * (times[i] - times[i - 1])


@dataclass(frozen=True)
class Speed:
    """Milliseconds of the dense model as given and of the compiled sparse one, medians of interleaved rounds;
    ratio: the median of the rounds' ratios."""

    dense_ms: float
    compiled_ms: float
    ratio: float


def measured_speed(sparse: nn.Module, dense: nn.Module, inputs: Any, precision: Precision = Precision()) -> Speed:
    """How much faster the sparse model, compiled for these types, is than the dense one in torch."""
    fast = compile_model(sparse, inputs, weights=precision.weights, activations=precision.activations)
    args, kwargs = as_call(inputs)
    with torch.inference_mode():
        calls = {"dense": partial(dense, *args, **kwargs), "compiled": partial(fast, *args, **kwargs)}
        rounds = interleaved(calls, rounds=_ROUNDS, warmup=2, seconds=6.0)
    return Speed(rounds.median("dense"), rounds.median("compiled"), rounds.ratio("compiled", "dense"))


SpeedOf = Callable[[nn.Module, nn.Module, Any], Speed]  # of a sparse model against the dense one, at some inputs


@dataclass
class Calm:
    """Measures by `speed`, again where the dense model took far longer than it ever did: something else was running.

    Two models do not slow down alike then, so the ratio of a disturbed measurement says nothing. The calmest counts.
    """

    speed: SpeedOf
    least: float = float("inf")  # ms of the dense model, of all measurements

    def __call__(self, sparse: nn.Module, dense: nn.Module, inputs: Any) -> Speed:
        taken: list[Speed] = []
        for _ in range(_TRIES):
            taken.append(self.speed(sparse, dense, inputs))
            self.least = min(self.least, taken[-1].dense_ms)
            if taken[-1].dense_ms <= _DISTURBED * self.least:
                break
        return min(taken, key=lambda speed: speed.dense_ms)


def pruned_as(
    model: nn.Module,
    method: Any,
    sites: Sequence[Site],
    densities: Mapping[str, float],
    pattern: Pattern,
    ignore: Sequence[str],
    **options: Any,
) -> PruneReport:
    """Prunes in place so that every site has its density; those at density 1 are left alone."""
    whole = [site.name for site in sites if densities[site.name] >= 1.0]
    kept = sum(densities[s.name] * s.shape[0] * s.shape[1] for s in sites if s.name not in whole)
    size = sum(s.shape[0] * s.shape[1] for s in sites if s.name not in whole)
    fixed = fixed_density(pattern) is not None
    return prune_only(
        model,
        method,
        sparsity=None if fixed else 1.0 - kept / size,
        pattern=pattern,
        allocation=None if fixed else Given(densities),
        ignore=[*ignore, *(f"re:^{re.escape(name)}$" for name in whole)],
        **options,
    )


def trial(
    model: nn.Module,
    sites: Sequence[Site],
    densities: Mapping[str, float],
    pattern: Pattern,
    ignore: Sequence[str],
    inputs: Any,
    speed: Callable[[nn.Module, nn.Module, Any], Speed],
) -> Speed:
    """The speed of a copy that has these densities by magnitude: the method's own masks take about the same time."""
    twin = copy.deepcopy(model)
    if any(densities[site.name] < 1.0 for site in sites):  # where nothing is faster than dense, all stay so
        pruned_as(twin, "magnitude", sites, densities, pattern, ignore)
    return speed(twin, model, inputs)
