"""The door to the engine."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from rarefy.calibration.batches import as_batches
from rarefy.core.errors import DataError, EngineError, RarefyError
from rarefy.core.quantized import InputScale
from rarefy.core.site import find_sites
from rarefy.engine.capture import Example, as_example
from rarefy.engine.choices import Choices, choices_of
from rarefy.engine.compiled import Compiled, Variant, threads
from rarefy.engine.computed import computed_rows
from rarefy.engine.conv_choices import ConvChoices, Seen
from rarefy.engine.conv_plan import conv_plans_of, images_of
from rarefy.engine.conv_scales import ConvScales, note_scales, put_scales, scales_in
from rarefy.engine.decoder.compile import try_decoder
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.differ import differs
from rarefy.engine.explain import Explanation
from rarefy.engine.free import Call, free_dense
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.fuse_conv_region import across_in, conv_variants
from rarefy.engine.graph import captured
from rarefy.engine.input_scales import input_scales
from rarefy.engine.plan import plans_of, tokens_of
from rarefy.engine.precision import Precision
from rarefy.engine.program import part_variants
from rarefy.engine.sparse_conv import with_sparse_convs
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.engine.timing import interleaved
from rarefy.engine.whole import choose, model_key
from rarefy.ops import why_not


def compile(
    model: nn.Module,
    example_inputs: Any,
    *,
    weights: str = "fp32",
    activations: str = "fp32",
    data: Iterable[Any] | None = None,
    threads: int | None = None,
    measure: bool = True,
    keep_dense: bool = True,
) -> Compiled | CompiledDecoder:
    """A model called like the original that runs its sparse layers with native kernels where they win.

    example_inputs: what the model is called with: a tensor, a tuple of positional or a dict of keyword arguments,
    or a list of such for several shapes; each layer's kernels are timed at these shapes. Other shapes run too.
    weights: the stored type, "fp32", "bf16", "int8" (a scale an output) or "int4" (a scale for 16 inputs);
    activations: the type the inputs of a layer are rounded to before the product, "fp32", "bf16" (with fp32 or bf16
    weights) or "int8" (with int8 or int4 weights). data: batches of model inputs (as for `rarefy.prune`) from which
    8-bit inputs get one scale a layer; without it each token gets its own at the call, which costs a little time and
    is more accurate. threads: of the calls (None: torch's own number at the call).
    A causal language model of a known class becomes a `CompiledDecoder`, with a `generate` of its own; one whose
    weights are bfloat16 keeps that type, computes in float32 and gives float32 logits.
    measure: False times nothing and goes by the cost model (`docs/engine.md`): quick, and less certain. Measured
    times are kept on disk a machine (`rarefy cache`), so that compiling again takes little. keep_dense: False empties
    the weights of `model` that are packed for all shapes, which saves their memory; `model` can then run no more, and
    `.to_dense()` gives it back.

    Where dense is faster a layer stays dense, where the whole compiled model is not faster the model runs as it
    was given, and `explain()` says so, with how far narrower types moved the outputs. A variant whose outputs differ
    from the model's by more than its types explain is not used.
    """
    precision = Precision(weights, activations)
    if data is not None and activations != "int8":
        raise EngineError(f"compile: data= sets the scales of activations='int8', not of {activations!r}; leave it out")
    if threads is not None and threads < 1:
        raise EngineError(f"compile: threads={threads} is not positive; give a count or None")
    given = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    examples = [_copied(as_example(one)) for one in given]
    if not examples:
        raise DataError("compile: example_inputs is empty; give at least one set of inputs of the model")
    model.eval()
    batches = None if data is None else as_batches(data, method="compile(activations='int8')", needed=True)
    try:
        with _threads(threads):
            decoder = try_decoder(model, examples, precision, threads, measure, batches)
            if isinstance(decoder, CompiledDecoder):
                return decoder
            found, _ = find_sites(model, leave_computed=True)
            linears = [site for site in found if not isinstance(site.module, nn.Conv2d)]
            scales = {} if batches is None else input_scales(model, linears, batches, precision.stored)
            return _compile(
                model, examples, threads, measure, precision, scales, keep_dense, decoder, batches=batches or ()
            )
    except RarefyError:
        raise
    except Exception:
        _require_running(model, examples)
        raise


def _require_running(model: nn.Module, examples: Sequence[Example]) -> None:
    """Raises DataError for an example that the model itself does not run on."""
    for number, example in enumerate(examples):
        try:
            with torch.no_grad():
                _call(model, _copied(example))
        except Exception as error:
            raise DataError(
                f"compile: the model does not run on example_inputs[{number}]: {type(error).__name__}: {error}; give a "
                "tensor, a tuple of positional or a dict of named arguments of its forward"
            ) from error


def compile_again(
    model: nn.Module, choices: Choices, why: str | None, *, keep_dense: bool = False
) -> Compiled | CompiledDecoder:
    """Compiles for what a model was compiled for before: the same types, inputs and scales, kernels of this CPU.

    why: what `explain()` notes about it.
    """
    model.eval()
    examples, count = list(choices.examples), choices.threads
    with _threads(count):
        decoder = try_decoder(model, examples, choices.precision, count, True, None, choices.scales, why)
        if isinstance(decoder, CompiledDecoder):
            return decoder
        return _compile(
            model,
            examples,
            count,
            True,
            choices.precision,
            choices.scales,
            keep_dense,
            decoder,
            why,
            image_scales=choices.image_scales,
        )


_threads = threads  # `compile` has an argument of that name


def _compile(
    model: nn.Module,
    examples: Sequence[Example],
    count: int | None,
    measure: bool,
    precision: Precision,
    scales: Mapping[str, InputScale],
    keep_dense: bool,
    no_decoder: str | None,
    why: str | None = None,
    batches: Sequence[Any] = (),
    image_scales: Sequence[Mapping[str, ConvScales]] = (),
) -> Compiled:
    sites, computed = find_sites(model, leave_computed=True)
    convs = [site for site in sites if isinstance(site.module, nn.Conv2d)]
    linears = [site for site in sites if site not in convs]
    tokens = [tokens_of(model, sites, partial(_call, model, example)) for example in examples]
    counts = {site.name: [t[site.name] for t in tokens if site.name in t] for site in sites}
    plans, rows = plans_of(linears, counts, precision, scales, measure=measure)
    images = [images_of(convs, partial(_call, model, example)) if convs else {} for example in examples]
    seen_images = {site.name: [i[site.name] for i in images if site.name in i] for site in convs}
    conv_plans, conv_rows = conv_plans_of(convs, seen_images, precision, measure=measure)
    sparse = bool(plans or conv_plans)
    layers = with_sparse_convs(with_sparse_layers(model, plans), conv_plans) if sparse else model
    key = model_key(model, [*rows, *conv_rows]) if measure else None
    pick = partial(_fastest, layers=layers, count=count, key=key, precision=precision)
    variants, whole, notes = [], [], [f"note: {said}" for said in (why_not(), why) if said is not None]
    if no_decoder is not None:
        notes.append(f"note: generate runs in torch, module by module: {no_decoder}")
    wrong: set[str] = set()
    graphs: list[str] = []
    found_scales: list[Mapping[str, ConvScales]] = []
    known_scales = image_scales or [{}] * len(examples)
    for example, seen, image, known in zip(examples, tokens, images, known_scales, strict=True):
        native = partial(fuse_convs, plans=conv_plans, images=image)
        graph, said = captured(model, example, plans, seen, native) if sparse else (None, "no layer is faster sparse")
        graphs.append(said)
        if graph is not None:
            notes += [said for said in (note_scales(graph, batches), put_scales(graph, known)) if said is not None]
        found_scales.append({} if graph is None else scales_in(graph))
        candidates: dict[str, Callable[..., Any]] = {"source": model}
        if sparse:
            candidates["layers"] = layers
        if graph is not None:
            batch = max((i[0] for i in image.values()), default=0)
            candidates.update(conv_variants(graph, batch, measure=measure))
            if measure:
                entries = [x.shape[0] for x in tree_leaves(example) if isinstance(x, Tensor) and x.dim()]
                candidates.update(
                    part_variants(candidates["graph"], max(entries, default=0), max(seen.values(), default=0))
                )
        variant, times, refused = pick(example, candidates, notes)
        wrong |= refused
        variants.append(variant)
        whole.append(times)
    explanation = Explanation(
        (*rows, *conv_rows, *computed_rows(model, computed)),
        "; ".join(dict.fromkeys(graphs)),
        tuple(whole),
        tuple(notes),
        count or torch.get_num_threads(),
    )
    runs = [v.label for v in variants]
    held = found_scales if any(found_scales) else ()
    calls_seen = [Seen(i, t, across_in(v.run)) for i, t, v in zip(images, tokens, variants, strict=True)]
    native_convs = ConvChoices({name: p.kernels for name, p in conv_plans.items()}, calls_seen) if conv_plans else None
    choices = choices_of(plans, precision, scales, examples, runs, count, held, native_convs)
    trusted = "layers" not in wrong
    made = Compiled(model, layers if trusted else model, variants, explanation, count, choices)
    if trusted and not keep_dense and all(v.label != "source" for v in variants):
        calls: list[Call] = [(v.run, v.example) for v in variants]
        calls += [(layers, example) for example in examples]
        free_dense(model, plans, calls)
    return made


def _call(model: Callable[..., Any], example: Example) -> Any:
    args, kwargs = example
    return model(*args, **kwargs)


def _copied(example: Example) -> Example:
    """The same inputs for a model that may write into them."""
    copied: Example = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, example)
    return copied


def _fastest(
    example: Example,
    candidates: Mapping[str, Callable[..., Any]],
    notes: list[str],
    *,
    layers: nn.Module,
    count: int | None,
    key: str | None,
    precision: Precision,
) -> tuple[Variant, dict[str, Any], set[str]]:
    """The fastest of the candidates whose outputs are right, timed in interleaved rounds or as the cache has it; and
    those whose outputs are not.

    key: of the model in the cache; None times nothing and takes what is likely fastest.

    They are timed as they will be called, through `Compiled`, whose own cost can decide for a very small model.
    """
    with torch.inference_mode():
        reference = _call(candidates["source"], _copied(example))
        right = {"source": candidates["source"]}
        moved = {"source": 0.0}
        for name, run in candidates.items():
            try:
                why, moved[name] = (
                    (None, 0.0) if name == "source" else differs(_call(run, _copied(example)), reference, precision)
                )
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
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(example) if isinstance(leaf, Tensor))
        best, said = choose(right, None if key is None else f"{key} inputs {shapes}", partial(interleaved, calls))
    runs = "the model as it was given (nothing faster)" if best == "source" else f"the sparse {best}"
    times = {"inputs": shapes, **said, "runs": runs, "difference": moved[best]}
    return Variant(example, right[best], best), times, candidates.keys() - right.keys()
