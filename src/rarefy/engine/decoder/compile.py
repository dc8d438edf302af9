"""From a recognised language model to the compiled one: layouts chosen, outputs compared with the source's."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.quantized import InputScale
from rarefy.core.site import find_sites
from rarefy.engine.capture import Example
from rarefy.engine.choices import DECODER, Choices
from rarefy.engine.cold import streams
from rarefy.engine.decoder.choose import Chooser
from rarefy.engine.decoder.generate import positions_of
from rarefy.engine.decoder.layer_plan import Plan, plan_of
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.decoder.parts import NotKnownError
from rarefy.engine.decoder.profile import parts_of_a_token
from rarefy.engine.decoder.recognise import recognise
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.decoder.selecting import selected_inputs
from rarefy.engine.decoder.structure import Structure
from rarefy.engine.differ import differs
from rarefy.engine.explain import Explanation
from rarefy.engine.input_scales import input_scales
from rarefy.engine.machine import machine
from rarefy.engine.precision import Precision
from rarefy.engine.timing import interleaved
from rarefy.ops import why_not

_COUNTS = (1, 8, 32)  # token counts at which layers are always timed: one text, and batches of them
_MOST_ROWS = 256  # longer prompts run with what was chosen for this many rows


def try_decoder(
    model: nn.Module,
    examples: Sequence[Example],
    precision: Precision,
    count: int | None,
    measure: bool,
    data: Iterable[Any] | None,
    known: Mapping[str, InputScale] | None = None,
    why: str | None = None,
) -> CompiledDecoder | str | None:
    """The compiled decoder; why a language model is not compiled as one; None for any other model.

    known: scales of 8-bit inputs by layer, found before; without them they come from `data`. why: a note for
    `explain()`.
    """
    if not callable(getattr(model, "generate", None)) or not callable(getattr(model, "get_output_embeddings", None)):
        return None
    ids = [_ids(model, example) for example in examples]
    try:
        structure = recognise(model)
        if any(rows is None for rows in ids):
            raise NotKnownError("the example inputs hold no input_ids")
        precision = _kept(model, precision)
        scales = dict(known or {})
        if data is not None:
            scales = input_scales(model, find_sites(model)[0], data, precision.stored)
        counts = _counts([rows for rows in ids if rows is not None])
        chooser = Chooser(precision, counts, scales, measure=measure, cold=streams(model, precision.weights))
        return _compile(model, structure, [rows for rows in ids if rows is not None], chooser, count, measure, why)
    except NotKnownError as error:
        return str(error)


def _kept(model: nn.Module, precision: Precision) -> Precision:
    """The types, where none were asked for with weights as the model has them: as float32 they would only be larger."""
    narrow = next(model.parameters()).dtype == torch.bfloat16  # all are, or none
    return Precision("bf16") if precision.exact and narrow else precision


def _ids(model: nn.Module, example: Example) -> Tensor | None:
    args, kwargs = example
    found = args[0] if args else kwargs.get("input_ids")
    return found if isinstance(found, Tensor) and found.dim() == 2 and not found.is_floating_point() else None


def _counts(ids: Sequence[Tensor]) -> list[int]:
    """Token counts to time: of a step, and of the example prompts."""
    rows = [min(_MOST_ROWS, example.numel()) for example in ids] + [example.shape[0] for example in ids]
    return [*_COUNTS, *(n for n in rows if n > 0)]


def _compile(
    model: nn.Module,
    structure: Structure,
    ids: Sequence[Tensor],
    chooser: Chooser,
    count: int | None,
    measure: bool,
    why: str | None,
) -> CompiledDecoder:
    plan = plan_of(structure, chooser, _samples(model, structure, ids))
    with torch.inference_mode():
        runner = Runner(structure, plan)
        output, far = _agree(model, runner, ids, chooser.precision, structure.selects)
        whole = tuple(_times(model, runner, example) for example in ids) if measure else ()
        notes = _notes(structure, plan, runner, measure) + ([] if why is None else [f"note: {why}"])
    if not chooser.precision.exact:
        notes.append(f"{chooser.precision}: logits are {far:.1%} away from the source model's")
    said = count or torch.get_num_threads()
    explanation = Explanation(tuple(chooser.rows), _graph(runner), whole, tuple(notes), said)
    return CompiledDecoder(model, runner, output, explanation, _choices(model, structure, plan, chooser, ids, count))


def _choices(
    model: nn.Module, structure: Structure, plan: Plan, chooser: Chooser, ids: Sequence[Tensor], count: int | None
) -> Choices:
    """What was chosen, as plain data; not complete for what is beside the layers."""
    names = {id(module): name for name, module in model.named_modules()}
    every = plan.all() if structure.plain else []
    return Choices(
        {c.merged.name: tuple((n, None if p is None else p.kernel) for n, p in c.steps) for c in every},
        chooser.precision,
        {c.merged.name: chooser.scales[c.merged.name] for c in every if c.merged.name in chooser.scales},
        [((example,), {}) for example in ids],
        [DECODER] * len(ids),
        count,
        machine(count or torch.get_num_threads()),
        complete=structure.plain,
        parts={c.merged.name: tuple(names[id(part)] for part in c.merged.parts) for c in every},
    )


def _logits(runner: Runner, ids: Tensor) -> Tensor:
    cache = runner.cache(*ids.shape)
    return runner.run(ids.long().contiguous(), positions_of(None, *ids.shape), cache, last_only=False)


def _prompt_and_token(runner: Runner, ids: Tensor) -> Tensor:
    """Logits of all tokens, the last of them by a step of its own: prompts and single tokens run differently."""
    ids, positions = ids.long(), positions_of(None, *ids.shape)
    cache = runner.cache(*ids.shape)
    at = ids.shape[1] - 1
    pieces = [
        runner.run(ids[:, part].contiguous(), positions[:, part].contiguous(), cache, last_only=False)
        for part in (slice(0, at), slice(at, at + 1))
        if ids[:, part].numel()
    ]
    return torch.cat(pieces, dim=1)


def _samples(model: nn.Module, structure: Structure, ids: Sequence[Tensor]) -> dict[str, Tensor]:
    """Rows that layers see behind selectors in the examples, by the name of the layer."""
    watched = {
        merged.name: merged.parts[0]
        for layer in structure.layers
        for merged in layer.merged()
        if merged.selector is not None or (merged is layer.down and layer.hidden is not None)
    }
    if structure.head.selector is not None:
        watched[structure.head.name] = structure.head.parts[0]
    return selected_inputs(model, watched, ids) if watched else {}


def _agree(
    model: nn.Module, runner: Runner, ids: Sequence[Tensor], precision: Precision, selects: bool
) -> tuple[type, float]:
    """The class of the model's outputs and how far the runtime's logits are from them. Raises NotKnownError where they
    differ by more than the types explain."""
    kind, far = type(None), 0.0
    for example in ids:
        output = model(input_ids=example)
        why, distance = differs(_prompt_and_token(runner, example), output.logits, precision, selects=selects)
        if why is not None:
            raise NotKnownError(f"what the runtime computes {why}")
        kind, far = type(output), max(far, distance)
    return kind, far


def _times(model: nn.Module, runner: Runner, ids: Tensor) -> dict[str, Any]:
    """Milliseconds of the example's forward pass, in the source and compiled."""
    calls = {"source": partial(model, input_ids=ids, use_cache=False), "compiled": partial(_logits, runner, ids)}
    rounds = interleaved(calls, rounds=5, warmup=1, seconds=1.0)
    faster = rounds.ratio("compiled", "source") >= 1.0
    return {
        "inputs": str(tuple(ids.shape)),
        "source_ms": rounds.median("source"),
        "compiled_ms": rounds.median("compiled"),
        "speedup": rounds.ratio("compiled", "source"),
        "runs": "the decoder runtime" + ("" if faster else " (slower than the source at this shape)"),
    }


def _graph(runner: Runner) -> str:
    native = "one native call a step" if runner.is_native else "layer by layer in torch"
    return f"decoder runtime for {runner.structure.kind}: {len(runner.structure.layers)} layers, {native}"


def _notes(structure: Structure, plan: Plan, runner: Runner, measure: bool) -> list[str]:
    packed = sum({id(chosen): chosen.nbytes for chosen in plan.all()}.values())
    notes = [f"packed weights: {packed / 2**20:.1f} MiB"]
    if measure:
        parts = parts_of_a_token(runner, past=min(128, structure.most_positions - 1), steps=5)
        shown = ", ".join(f"{name} {ms:.3f}" for name, ms in sorted(parts.items(), key=lambda pair: -pair[1]) if ms > 0)
        notes.append(f"one token behind 128, ms: {shown}")
    notes += [f"note: {note}" for note in _detours(structure)]
    return notes + ([] if why_not() is None else [f"note: {why_not()}"])


def _detours(structure: Structure) -> list[str]:
    """Which calls do not run as one native step, because of what the model is."""
    if not structure.steps:
        return ["norms behind the layers or a projected embedding are not in the native step: layers run one by one"]
    windows = sorted(window for window in structure.windows if window is not None)
    if not windows:
        return []
    if len(structure.windows) == 1:
        return [f"a token sees {windows[0]} tokens, itself the last: prompts run layer by layer behind so many"]
    return [f"tokens of some layers see {windows[0]}, of others more: behind so many texts run layer by layer"]
