"""The door to the engine."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from rarefy.core.errors import DataError, EngineError
from rarefy.core.site import find_sites
from rarefy.engine.capture import Example, as_example, capture
from rarefy.engine.compiled import Compiled, Variant, threads
from rarefy.engine.conv_plan import conv_plans_of, images_of
from rarefy.engine.explain import Explanation
from rarefy.engine.fuse import describe, rewrite
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.fuse_conv_region import conv_variants
from rarefy.engine.plan import LayerPlan, plans_of, tokens_of
from rarefy.engine.sparse_conv import with_sparse_convs
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.engine.timing import interleaved
from rarefy.ops import why_not

_TOLERANCE = 2e-4  # largest difference from the source model's outputs, relative to their largest entry


def compile(
    model: nn.Module,
    example_inputs: Any,
    *,
    weights: str = "fp32",
    threads: int | None = None,
) -> Compiled:
    """A model called like the original that runs its sparse layers with native kernels where they win.

    example_inputs: what the model is called with: a tensor, a tuple of positional or a dict of keyword arguments,
    or a list of such for several shapes; each layer's kernels are timed at these shapes. Other shapes run too.
    weights: "fp32", the only stored type so far. threads: of the calls (None: torch's own number at the call).

    Where dense is faster a layer stays dense, where the whole compiled model is not faster the model runs as it
    was given, and `explain()` says so. A variant whose outputs differ from the model's by more than rounding is
    not used.
    """
    if weights != "fp32":
        raise EngineError(f"compile: weights={weights!r} is not there yet; this version stores 'fp32' only")
    if threads is not None and threads < 1:
        raise EngineError(f"compile: threads={threads} is not positive; give a count or None")
    examples = [as_example(e) for e in (example_inputs if isinstance(example_inputs, list) else [example_inputs])]
    if not examples:
        raise DataError("compile: example_inputs is empty; give at least one set of inputs of the model")
    model.eval()
    with _threads(threads):
        return _compile(model, examples, threads)


_threads = threads  # `compile` has an argument of that name


def _compile(model: nn.Module, examples: Sequence[Example], count: int | None) -> Compiled:
    sites, _ = find_sites(model)
    tokens = [tokens_of(model, sites, partial(_call, model, example)) for example in examples]
    counts = {site.name: [t[site.name] for t in tokens if site.name in t] for site in sites}
    convs = [site for site in sites if isinstance(site.module, nn.Conv2d)]
    plans, rows = plans_of([site for site in sites if site not in convs], counts)
    images = [images_of(convs, partial(_call, model, example)) if convs else {} for example in examples]
    seen_images = {site.name: [i[site.name] for i in images if site.name in i] for site in convs}
    conv_plans, conv_rows = conv_plans_of(convs, seen_images)
    sparse = bool(plans or conv_plans)
    layers = with_sparse_convs(with_sparse_layers(model, plans), conv_plans) if sparse else model
    variants, whole, notes = [], [], [] if why_not() is None else [f"note: {why_not()}"]
    graphs: list[str] = []
    for example, seen, image in zip(examples, tokens, images, strict=True):
        native = partial(fuse_convs, plans=conv_plans, images=image)
        graph, said = _graph(model, example, plans, seen, native) if sparse else (None, "no layer is faster sparse")
        graphs.append(said)
        candidates: dict[str, Callable[..., Any]] = {"source": model}
        if sparse:
            candidates["layers"] = layers
        if graph is not None:
            candidates.update(conv_variants(graph, max((i[0] for i in image.values()), default=0)))
        variant, times = _fastest(example, candidates, layers, count, notes)
        variants.append(variant)
        whole.append(times)
    explanation = Explanation(
        (*rows, *conv_rows), "; ".join(dict.fromkeys(graphs)), tuple(whole), tuple(notes), count or torch.get_num_threads()
    )
    return Compiled(model, layers, variants, explanation, count)


def _call(model: Callable[..., Any], example: Example) -> Any:
    args, kwargs = example
    return model(*args, **kwargs)


def _graph(
    model: nn.Module,
    example: Example,
    plans: dict[str, LayerPlan],
    tokens: dict[str, int],
    convs: Callable[[GraphModule], list[str]],
) -> tuple[Callable[..., Any] | None, str]:
    """The rewritten graph of the model, or None and why there is none."""
    try:
        graph = capture(model, example)
    except Exception as error:  # whatever export cannot do runs module by module
        return None, f"torch.export did not take the model ({type(error).__name__}); layers run one by one"
    native = convs(graph)
    run, done = rewrite(graph, plans, tokens)
    return run, describe(run, [*native, *done])


def _fastest(
    example: Example,
    candidates: Mapping[str, Callable[..., Any]],
    layers: nn.Module,
    count: int | None,
    notes: list[str],
) -> tuple[Variant, dict[str, Any]]:
    """The fastest of the candidates whose outputs are right, timed in interleaved rounds.

    They are timed as they will be called, through `Compiled`, whose own cost can decide for a very small model.
    """
    with torch.inference_mode():
        reference = _call(candidates["source"], example)
        right = {"source": candidates["source"]}
        for name, run in candidates.items():
            try:
                why = None if name == "source" else _differs(_call(run, example), reference)
            except Exception as error:
                why = f"fails with {type(error).__name__}: {error}"
            if why is not None:
                notes.append(f"note: the variant '{name}' is not used: it {why}")
            else:
                right[name] = run
        source = candidates["source"]
        assert isinstance(source, nn.Module)
        dressed: dict[str, Callable[..., Any]] = {
            name: Compiled(source, layers, [Variant(example, run, name)], None, count) for name, run in right.items()
        }
        dressed["source"] = source
        calls = {name: partial(_call, run, example) for name, run in dressed.items()}
        rounds = interleaved(calls, rounds=9, warmup=2, seconds=4.0)
    best = min(right, key=rounds.median)
    if best != "source" and rounds.ratio(best, "source") < 1.0:
        best = "source"
    shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
    times = {
        "inputs": shapes,
        "source_ms": rounds.median("source"),
        "compiled_ms": rounds.median(best),
        "speedup": rounds.ratio(best, "source"),
        "runs": "the model as it was given (nothing faster)" if best == "source" else f"the sparse {best}",
    }
    return Variant(example, right[best], best), times


def _differs(output: Any, reference: Any) -> str | None:
    """How an output differs from the reference beyond rounding, or None."""
    mine, theirs = tree_leaves(output), tree_leaves(reference)
    if len(mine) != len(theirs):
        return f"returns {len(mine)} values, the model {len(theirs)}"
    for a, b in zip(mine, theirs, strict=True):
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not b.is_floating_point():
            continue
        if a.shape != b.shape:
            return f"returns shape {tuple(a.shape)}, the model {tuple(b.shape)}"
        scale = b.abs().max().clamp_min(1e-6)
        far = float(((a - b).abs().max() / scale).nan_to_num(0.0))
        if far > _TOLERANCE:
            return f"differs by {far:.1e} of the largest output"
    return None
