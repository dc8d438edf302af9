"""A compiled model, assembled: kernels for its layers, a graph for each example, and the fastest of what there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from rarefy.core.quantized import InputScale
from rarefy.core.site import find_sites
from rarefy.engine.capture import Example
from rarefy.engine.choices import choices_of
from rarefy.engine.compiled import Compiled
from rarefy.engine.conv_choices import ConvChoices, Image, Seen
from rarefy.engine.conv_plan import ConvPlan, conv_plans_of, images_of
from rarefy.engine.conv_scales import ConvScales, note_scales, put_scales, scales_in
from rarefy.engine.explain import Explanation, LayerRow
from rarefy.engine.fastest import call, fastest
from rarefy.engine.free import Call, free_dense
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.fuse_conv_region import across_in, conv_variants
from rarefy.engine.graph import captured
from rarefy.engine.left_in_torch import rows_in_torch
from rarefy.engine.plan import LayerPlan, plans_of, tokens_of
from rarefy.engine.precision import Precision
from rarefy.engine.program import part_variants
from rarefy.engine.sparse_conv import with_sparse_convs
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.engine.whole import model_key
from rarefy.ops import why_not


@dataclass(frozen=True)
class Order:
    """What a model is compiled for. scales: of 8-bit inputs by site; image_scales: of 8-bit convolutions, for each
    example, where they are known; batches: what they are found from where they are not; the rest as of `compile`."""

    examples: Sequence[Example]
    precision: Precision
    threads: int | None
    measure: bool = True
    keep_dense: bool = True
    scales: Mapping[str, InputScale] = field(default_factory=dict)
    image_scales: Sequence[Mapping[str, ConvScales]] = ()
    batches: Sequence[Any] = ()


@dataclass(frozen=True)
class _Layers:
    """The plans of a model's layers by site, and what each example shows them: tokens, images."""

    plans: Mapping[str, LayerPlan]
    convs: Mapping[str, ConvPlan]
    rows: Sequence[LayerRow]
    tokens: Sequence[Mapping[str, int]]
    images: Sequence[Mapping[str, Image]]

    @property
    def sparse(self) -> bool:
        return bool(self.plans or self.convs)

    def put_into(self, model: nn.Module) -> nn.Module:
        if not self.sparse:
            return model
        return with_sparse_convs(with_sparse_layers(model, dict(self.plans)), dict(self.convs))


def assembled(model: nn.Module, order: Order, notes: Sequence[str]) -> Compiled:
    """The model compiled. notes: for `explain()`."""
    found = _layers(model, order)
    layers = found.put_into(model)
    key = model_key(model, found.rows) if order.measure else None
    pick = partial(fastest, layers=layers, count=order.threads, key=key, precision=order.precision)
    said = [f"note: {note}" for note in (why_not(), *notes) if note is not None]
    graphs, variants, whole, scales = [], [], [], []
    wrong: set[str] = set()
    known_scales = order.image_scales or [{}] * len(order.examples)
    for number, known in enumerate(known_scales):
        graph, about = _graph(model, order, found, number)
        graphs.append(about)
        if graph is not None:
            said += [s for s in (note_scales(graph, order.batches), put_scales(graph, known)) if s is not None]
        scales.append({} if graph is None else scales_in(graph))
        ways = _ways(model, layers, graph, order, found, number)
        variant, times, refused = pick(order.examples[number], ways, said)
        wrong |= refused
        variants.append(variant)
        whole.append(times)
    count = order.threads or torch.get_num_threads()
    explanation = Explanation(tuple(found.rows), "; ".join(dict.fromkeys(graphs)), tuple(whole), tuple(said), count)
    seen = [Seen(i, t, across_in(v.run)) for i, t, v in zip(found.images, found.tokens, variants, strict=True)]
    choices = choices_of(
        found.plans,
        order.precision,
        order.scales,
        order.examples,
        [v.label for v in variants],
        order.threads,
        scales if any(scales) else (),
        ConvChoices({name: p.kernels for name, p in found.convs.items()}, seen) if found.convs else None,
    )
    trusted = "layers" not in wrong
    made = Compiled(model, layers if trusted else model, variants, explanation, order.threads, choices)
    if trusted and not order.keep_dense and all(v.label != "source" for v in variants):
        calls: list[Call] = [(v.run, v.example) for v in variants]
        calls += [(layers, example) for example in order.examples]
        free_dense(model, found.plans, calls)
    return made


def _layers(model: nn.Module, order: Order) -> _Layers:
    sites, computed = find_sites(model, leave_computed=True, needed=False)
    convs = [site for site in sites if isinstance(site.module, nn.Conv2d)]
    linears = [site for site in sites if site not in convs]
    tokens = [tokens_of(model, sites, partial(call, model, example)) for example in order.examples]
    counts = {site.name: [t[site.name] for t in tokens if site.name in t] for site in sites}
    plans, rows = plans_of(linears, counts, order.precision, order.scales, measure=order.measure)
    images = [images_of(convs, partial(call, model, example)) if convs else {} for example in order.examples]
    seen = {site.name: [i[site.name] for i in images if site.name in i] for site in convs}
    conv_plans, conv_rows = conv_plans_of(convs, seen, order.precision, measure=order.measure)
    return _Layers(plans, conv_plans, [*rows, *conv_rows, *rows_in_torch(model, computed)], tokens, images)


def _graph(model: nn.Module, order: Order, found: _Layers, number: int) -> tuple[GraphModule | None, str]:
    if not found.sparse:
        return None, "no layer is faster sparse"
    native = partial(fuse_convs, plans=found.convs, images=found.images[number])
    return captured(model, order.examples[number], found.plans, found.tokens[number], native)


def _ways(
    model: nn.Module, layers: nn.Module, graph: GraphModule | None, order: Order, found: _Layers, number: int
) -> dict[str, Callable[..., Any]]:
    """All ways to run an example, by name."""
    ways: dict[str, Callable[..., Any]] = {"source": model}
    if found.sparse:
        ways["layers"] = layers
    if graph is not None:
        batch = max((image[0] for image in found.images[number].values()), default=0)
        ways.update(conv_variants(graph, batch, measure=order.measure))
        if order.measure:
            sizes = [x.shape[0] for x in tree_leaves(order.examples[number]) if isinstance(x, Tensor) and x.dim()]
            rows = max(found.tokens[number].values(), default=0)
            ways.update(part_variants(ways["graph"], max(sizes, default=0), rows))
    return ways
