"""The door to the engine."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from rarefy.calibration.batches import as_batches
from rarefy.core.errors import DataError, EngineError, RarefyError
from rarefy.core.site import find_sites, require_module
from rarefy.engine import calls
from rarefy.engine.assemble import Order, assembled
from rarefy.engine.capture import Example, as_example
from rarefy.engine.choices import Choices
from rarefy.engine.compiled import Compiled
from rarefy.engine.decoder.compile import try_decoder
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.fastest import call, copied
from rarefy.engine.input_scales import input_scales
from rarefy.engine.left_in_torch import rows_in_torch
from rarefy.engine.precision import Precision


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
    require_module("compile", model)
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or threads < 1):
        raise EngineError(f"compile: threads={threads!r} is no positive whole number; give a count or None")
    given = example_inputs if isinstance(example_inputs, list) else [example_inputs]
    examples = [copied(as_example(one)) for one in given]
    if not examples:
        raise DataError("compile: example_inputs is empty; give at least one set of inputs of the model")
    model.eval()
    batches = None if data is None else as_batches(data, method="compile(activations='int8')", needed=True)
    try:
        with calls.threads(threads), torch.autocast("cpu", enabled=False):
            sites, computed = find_sites(model, leave_computed=True, needed=False)
            if not sites and not rows_in_torch(model, computed):
                find_sites(model)  # which raises, and says what is missing
            precision.require_finite(sites)
            decoder = try_decoder(model, examples, precision, threads, measure, batches)
            if isinstance(decoder, CompiledDecoder):
                return decoder
            linears = [site for site in sites if not isinstance(site.module, nn.Conv2d)]
            scales = {} if batches is None else input_scales(model, linears, batches, precision.stored)
            order = Order(examples, precision, threads, measure, keep_dense, scales, batches=batches or ())
            return assembled(model, order, _why_no_decoder(decoder))
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
                call(model, copied(example))
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
    with calls.threads(count), torch.autocast("cpu", enabled=False):
        decoder = try_decoder(model, examples, choices.precision, count, True, None, choices.scales, why)
        if isinstance(decoder, CompiledDecoder):
            return decoder
        order = Order(examples, choices.precision, count, True, keep_dense, choices.scales, choices.image_scales)
        return assembled(model, order, [*([] if why is None else [why]), *_why_no_decoder(decoder)])


def _why_no_decoder(why: str | None) -> list[str]:
    return [] if why is None else [f"generate runs in torch, module by module: {why}"]
