"""Convolutions of a compiled model from choices that were made before: packed or seen in a file, nothing is timed.

The graph is captured anew at each load, so that it is always the graph of the model that is there; only the packed
weights come from the file.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from rarefy.core.errors import EngineError
from rarefy.core.site import Site
from rarefy.engine.capture import Captures, Example
from rarefy.engine.choices import Choices
from rarefy.engine.conv_across import Across
from rarefy.engine.conv_choices import Pack, Seen, WantedConv
from rarefy.engine.conv_plan import ConvPlan, why_torch
from rarefy.engine.conv_scales import put_scales
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.fuse_conv_region import Way, in_way, way_of
from rarefy.engine.fused_conv import FusedConv2d, FusedConvPool
from rarefy.engine.graph import captured
from rarefy.engine.plan import LayerPlan
from rarefy.engine.precision import Precision
from rarefy.engine.program import in_parts
from rarefy.engine.sparse_conv import with_sparse_convs
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.engine.variant import Variant
from rarefy.ops import PackedConv, window_of
from rarefy.ops.conv8 import PackedConv8, is_conv8
from rarefy.ops.conv_kernels import filters_across, kernels_across

_PARTS = re.compile(r"graph, (\d+) at a time on each thread")


@dataclass(frozen=True)
class ConvModel:
    """layers: the model with native convolutions in it; variants: how each example runs; plans: by site; notes: what
    `explain()` has to say besides."""

    layers: nn.Module
    variants: Sequence[Variant]
    plans: Mapping[str, ConvPlan]
    notes: Sequence[str]


def conv_model(
    pack: Pack,
    *,
    model: nn.Module,
    sites: Mapping[str, Site],
    plans: Mapping[str, LayerPlan],
    choices: Choices,
    weights: Mapping[str, Callable[[], Tensor]],
    captures: Captures,
) -> ConvModel:
    """The model as it was chosen, its convolutions had by `pack`. plans: of linear layers; weights: by site; captures:
    of the model, kept by who makes it more than once.

    Raises EngineError for a choice that does not fit the model.
    """
    assert choices.convs is not None
    convs = {
        name: _plan(sites.get(name), name, steps, choices.precision, weights, pack)
        for name, steps in choices.convs.kernels.items()
    }
    layers = with_sparse_convs(with_sparse_layers(model, dict(plans)), convs)
    again = _Again(model, layers, plans, convs, weights, pack, captures)
    scales = choices.image_scales or [{}] * len(choices.examples)
    ways = zip(choices.examples, choices.runs, choices.convs.seen, scales, strict=True)
    return ConvModel(layers, [again.variant(*way) for way in ways], convs, again.notes)


def conv_key(choices: Choices, fingerprint: str | None) -> dict[str, Any] | None:
    """What the packed convolutions depend on besides the machine and the graph, whose part is in their names."""
    if fingerprint is None or choices.convs is None:
        return None
    said = json.dumps([asdict(choices.convs), list(choices.runs)], sort_keys=True)
    return {"weights": fingerprint, "convolutions": hashlib.sha256(said.encode()).hexdigest()}


def _plan(
    site: Site | None,
    name: str,
    steps: Sequence[tuple[Any, str | None]],
    precision: Precision,
    weights: Mapping[str, Callable[[], Tensor]],
    pack: Pack,
) -> ConvPlan:
    module = None if site is None else site.module
    window = window_of(module) if isinstance(module, nn.Conv2d) else None
    why = "it is no convolution of the model" if site is None or window is None else why_torch(site)
    eight = (precision.weights, precision.activations) == ("int8", "int8")
    if any(kernel is not None and is_conv8(kernel) for _, kernel in steps) and not eight:
        why = f"it takes 8-bit weights and inputs, not {precision}"
    if why is not None or site is None or window is None:
        raise EngineError(f"load: a kernel was chosen for {name!r}, but {why}; compile the model again")
    out, into, high, wide = site.parameter.shape
    packs = {
        kernel: pack(WantedConv(name, kernel, (out, into, high, wide), window, weights[name]))
        for kernel in dict.fromkeys(kernel for _, kernel in steps)
        if kernel is not None
    }
    return ConvPlan(site, window, tuple((image, packs.get(kernel or "")) for image, kernel in steps))


class _Again:
    """Makes the variants of a model, with everything that they are made of."""

    def __init__(
        self,
        model: nn.Module,
        layers: nn.Module,
        plans: Mapping[str, LayerPlan],
        convs: Mapping[str, ConvPlan],
        weights: Mapping[str, Callable[[], Tensor]],
        pack: Pack,
        captures: Captures,
    ) -> None:
        self._captures = captures
        self._model, self._layers, self._plans, self._convs, self._pack = model, layers, plans, convs, pack
        paths = {name: plan.site.name for plan in convs.values() for name in (plan.site.name, *plan.site.aliases)}
        self._weights = {f"{path}.weight": weights[site] for path, site in paths.items()}
        self._asked: dict[int, WantedConv] = {}
        self.notes: list[str] = []

    def variant(self, example: Example, label: str, seen: Seen, scales: Mapping[str, Any]) -> Variant:
        if label == "source":
            return Variant(example, self._model, label)
        way, parts = way_of(label), _PARTS.fullmatch(label)
        graph = None if way is None and parts is None else self._graph(example, seen)
        if graph is None:
            return Variant(example, self._layers, "layers")
        note = put_scales(graph, scales)
        self.notes += [] if note is None else [note]
        names = {id(module): name for name, module in graph.named_modules()}
        repack = partial(self._across, names, seen.across)
        run = in_way(graph, way or Way(), repack) or graph
        return Variant(example, run if parts is None else in_parts(run, max(1, int(parts[1]))) or run, label)

    def _graph(self, example: Example, seen: Seen) -> GraphModule | None:
        convs = partial(fuse_convs, plans=self._convs, images=seen.images, pack=self._noted, elsewhere=self._weights)
        tokens = {name: seen.tokens.get(name, 0) for name in self._plans}
        graph = captured(self._model, example, self._plans, tokens, convs, self._captures)[0]
        read = set() if graph is None else {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
        if left := sorted(read & self._weights.keys()):
            raise EngineError(
                f"load: {left[0]} is read by another way than its layer; load with compiled=False and compile again"
            )
        return graph

    def _noted(self, wanted: WantedConv) -> PackedConv | PackedConv8:
        packed = self._pack(wanted)
        self._asked[id(packed)] = wanted
        return packed

    def _across(self, names: Mapping[int, str], kernels: Mapping[str, str], step: Across, image: Any) -> Across:
        """The step packed for images across lanes by the kernel that was chosen; one with pooling may stay as it is."""
        conv, name = (step.conv if isinstance(step, FusedConvPool) else step), names[id(step)]
        packed, kernel = conv.packed, kernels.get(name, "dense")
        if isinstance(step, FusedConvPool) and kernel == "dense":
            return step
        fitting = set(filters_across(packed.shape, packed.window))
        if not isinstance(step, FusedConvPool):
            fitting |= set(kernels_across())
        elif step.pool.dilation != (1, 1):
            fitting = set()
        if kernel not in fitting:
            raise EngineError(f"load: {kernel!r} was chosen for {name!r}, which it does not fit; compile again")
        asked = replace(self._asked[id(packed)], kernel=kernel, weight=packed.to_dense, across=True)
        again = self._pack(asked)
        assert isinstance(again, PackedConv)
        made = FusedConv2d(again, conv.bias, conv.activation)
        return FusedConvPool(made, step.pool) if isinstance(step, FusedConvPool) else made
