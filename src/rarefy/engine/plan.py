"""Which kernel each layer gets, decided by timing it against the dense layer at the token counts of the examples."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.calls import first_input
from rarefy.core.grid import codes_of
from rarefy.core.quantized import InputScale
from rarefy.core.site import Site
from rarefy.engine.cache import TimingCache
from rarefy.engine.cell import Types
from rarefy.engine.cold import evictor
from rarefy.engine.explain import LayerRow
from rarefy.engine.precision import Precision
from rarefy.engine.steady import steady, timed
from rarefy.engine.times import Times, TimeTable
from rarefy.engine.timing import interleaved
from rarefy.ops import PackedWeight, candidates, pack

_MARGIN = 1.03  # a sparse kernel has to win by more than the noise of the timing
_LEAST_SPARSITY = 0.05
_ROUNDS, _MOST_ROUNDS, _SHORT_MS = 7, 41, 120.0  # more rounds where a round is so short that noise decides
_LEAST_PART = 128  # tokens that one thread is timed with for all: the widest tile that a kernel has
_NO_SCALES: Mapping[str, InputScale] = MappingProxyType({})


@runtime_checkable
class OfSite(Protocol):
    """A plan of one site's weight."""

    @property
    def site(self) -> Site: ...


Plan = TypeVar("Plan", bound=OfSite)


def plans_by_weight(graph: nn.Module, plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """The plans by the dotted names that their weights have in a captured graph."""
    found = {f"{name}.weight": plan for plan in plans.values() for name in (plan.site.name, *plan.site.aliases)}
    own = graph._parameters.get("weight")  # of a model that is one layer: there is no path before it
    whole = [plan for plan in plans.values() if own is not None and plan.site.parameter is own]
    return {**found, "weight": whole[0]} if whole else found


@dataclass(frozen=True)
class LayerPlan:
    """The packed weights of one site by the largest token count they were chosen for; None = stay dense."""

    site: Site
    steps: tuple[tuple[int, PackedWeight | None], ...]

    def __deepcopy__(self, memo: dict[int, Any]) -> "LayerPlan":
        """The same packed weights: a copied graph names them by the handles of these."""
        return LayerPlan(deepcopy(self.site, memo), self.steps)

    def at(self, tokens: int) -> PackedWeight | None:
        """The choice of the nearest measured token count at or above `tokens` (the largest beyond the last)."""
        for limit, packed in self.steps:
            if tokens <= limit:
                return packed
        return self.steps[-1][1]

    @property
    def any_sparse(self) -> bool:
        return any(packed is not None for _, packed in self.steps)


def tokens_of(model: nn.Module, sites: Sequence[Site], run: Callable[[], Any]) -> dict[str, int]:
    """How many input rows each site sees in one run (the largest, where it is called several times); those that see
    nothing, or nested tensors only, are left out."""
    seen: dict[str, int] = {}
    hooks = []
    for site in sites:

        def count(m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = site.name) -> None:
            x = first_input(args, kwargs)
            if x.is_nested:
                return
            rows = x.numel() // max(1, x.shape[-1])
            seen[name] = max(rows, seen.get(name, 0))

        hooks += [m.register_forward_pre_hook(count, with_kwargs=True) for m in site.modules]
    try:
        with torch.inference_mode():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _bias(site: Site) -> Tensor | None:
    bias = site.module.bias
    return bias if isinstance(bias, Tensor) else None


def why_dense(site: Site, sparsity: float, precision: Precision) -> str | None:
    """The reason to leave a site alone without timing it, if there is one."""
    if isinstance(site.module, nn.Conv2d):
        return "convolution: planned by the image it sees, when the model is compiled"
    if site.parameter.dtype != torch.float32:
        return f"weights are {site.parameter.dtype}, the sparse kernels take float32"
    if site.parameter.device.type != "cpu":
        return f"weights are on {site.parameter.device}, the sparse kernels run on the CPU"
    if sparsity < _LEAST_SPARSITY and precision.exact:
        return f"only {sparsity:.1%} zeros"
    return None


class Planner:
    """Plans sites; layers of one cell (`engine.cell`) are timed once a machine.

    precision: the stored and the computed type; scales: of 8-bit inputs by site, where they are known in advance.
    measure: False chooses by the cost model alone.
    """

    def __init__(
        self,
        precision: Precision = Precision(),
        scales: Mapping[str, InputScale] = _NO_SCALES,
        *,
        measure: bool = True,
        cache: TimingCache = TimingCache(),
    ) -> None:
        self.rows: list[LayerRow] = []
        self._precision, self._scales = precision, scales
        self._types = Types(precision.weights, precision.activations, static=bool(scales))
        timing = partial(time_layer, precision=precision, static=bool(scales))
        self._table = TimeTable(timing if measure else None, cache)

    def plan(self, site: Site, counts: Sequence[int]) -> LayerPlan | None:
        """The plan of one site, or None if it stays as it is at every token count."""
        weight = site.parameter.detach()
        weight = weight.t().contiguous() if site.transposed else weight
        sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
        why = why_dense(site, sparsity, self._precision)
        if why is not None or not counts:
            why = why or "not reached by the example inputs, or by nested tensors only"
            rows = counts or [0]
            self.rows += [LayerRow(site.name, site.shape, sparsity, n, "dense", None, None, why) for n in rows]
            return None
        scale = self._scales.get(site.name)
        codes = codes_of(site.module)
        stored = self._precision.stored(weight, scale, codes)
        packs: dict[str, PackedWeight] = {}
        steps: list[tuple[int, PackedWeight | None]] = []
        for tokens in sorted(set(counts)):
            kernel = self._choose(site, weight, sparsity, tokens, self._precision.rounds_anew(codes))
            if kernel != "dense" and kernel not in packs:
                packs[kernel] = pack(stored, kernel, input_scale=scale)
            steps.append((tokens, packs.get(kernel)))
        plan = LayerPlan(site, tuple(steps))
        return plan if plan.any_sparse else None

    def _choose(self, site: Site, weight: Tensor, sparsity: float, tokens: int, note: str) -> str:
        found = self._table.times(weight, _bias(site), tokens, self._types)
        sparse = {name: ms for name, ms in found.ms.items() if name != "dense"}
        best = min(sparse, key=lambda name: sparse[name] * (_MARGIN if is_whole(name) else 1.0), default=None)
        chosen, reason = verdict(found, best)
        sparse_ms = None if best is None else sparse[best]
        times = found.ms["dense"], sparse_ms, reason + (note if chosen != "dense" else ""), sparse, found.origin
        self.rows.append(LayerRow(site.name, site.shape, sparsity, tokens, chosen, *times))
        return chosen


def is_whole(kernel: str) -> bool:
    """Whether a kernel stores zeros too: it reads more than others do, of caches that a whole model has to share."""
    return kernel.startswith("dense")


def verdict(found: Times, best: str | None) -> tuple[str, str]:
    """(the kernel or "dense", why). A sparse kernel has to win by more than the noise of the timing."""
    if best is None:
        return "dense", "no kernel takes these types"
    gain = found.ms["dense"] / found.ms[best]
    word = "expected " if found.origin == "model" else ""
    if gain > _MARGIN:
        return best, f"{word}{gain:.2f}x faster than dense{found.left_out}"
    return "dense", f"dense is {word}as fast or faster{found.left_out}"


def time_layer(
    weight: Tensor,
    bias: Tensor | None,
    tokens: int,
    names: Sequence[str] | None = None,
    *,
    precision: Precision = Precision(),
    static: bool = False,
    packs: dict[str, PackedWeight] | None = None,
    before: Callable[[], Any] | None = None,
) -> dict[str, float]:
    """Median milliseconds of the dense float32 layer and of each kernel (all candidates if None), interleaved.

    static: 8-bit inputs have one scale that is known in advance; packs: what this weight was packed for already,
    by name; what is packed now is added; before: done ahead of each call, not timed.
    """
    packs = {} if packs is None else packs
    bias = None if bias is None else bias.detach()
    if names is None:
        names = candidates(weight, tokens, precision.weights, precision.activations)
    left = [name for name in names if name not in packs]
    stored = precision.stored(weight) if left else weight
    packs |= {name: pack(stored, name, input_scale=(0.05, 128) if static else None) for name in left}

    def measured(count: int) -> dict[str, float]:
        x = torch.randn(count, weight.shape[1], generator=torch.Generator().manual_seed(0))
        calls: dict[str, Callable[[], Any]] = {"dense": lambda: F.linear(x, weight, bias)}
        calls |= {name: partial(packs[name].multiply, x, bias, "none") for name in names}
        with torch.inference_mode():
            round_ms = sum(t[0] for t in interleaved(calls, rounds=1).times.values())
            most = int(min(_MOST_ROUNDS, max(_ROUNDS, _SHORT_MS / round_ms)))
            rounds = interleaved(calls, rounds=most, warmup=0, seconds=0.5, before=before, steady=steady())
        return {name: rounds.median(name) for name in calls}

    return timed(measured, tokens, _LEAST_PART)


class LayerTimer:
    """`time_layer` for a weight at several token counts in turn: what it was packed for is not packed anew.

    cold: up to this many tokens the weights are timed as they come from memory.
    """

    def __init__(self, precision: Precision, static: bool, cold: int = 0) -> None:
        self.precision, self.static, self.cold = precision, static, cold
        self._evict = evictor() if cold else None
        self._weight: Tensor | None = None
        self._packs: dict[str, PackedWeight] = {}

    def __call__(self, weight: Tensor, bias: Tensor | None, tokens: int, names: Sequence[str]) -> dict[str, float]:
        if weight is not self._weight:
            self._weight, self._packs = weight, {}
        before = self._evict if tokens <= self.cold else None
        return time_layer(
            weight, bias, tokens, names, precision=self.precision, static=self.static, packs=self._packs, before=before
        )

    def forget(self) -> None:
        """Lets go of the last weight."""
        self._weight, self._packs = None, {}


def plans_of(
    sites: Sequence[Site],
    counts: Mapping[str, Sequence[int]],
    precision: Precision = Precision(),
    scales: Mapping[str, InputScale] = _NO_SCALES,
    *,
    measure: bool = True,
) -> tuple[dict[str, LayerPlan], list[LayerRow]]:
    """Plans by site name, and the rows that explain them."""
    planner = Planner(precision, scales, measure=measure)
    plans = {site.name: planner.plan(site, counts.get(site.name, ())) for site in sites}
    return {name: plan for name, plan in plans.items() if plan is not None}, planner.rows
