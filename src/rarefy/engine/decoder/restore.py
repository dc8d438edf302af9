"""A compiled decoder from choices that were made before: packs, times nothing."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.core.quantized import InputScale, QuantizedWeight
from rarefy.engine.choices import Choices, Steps
from rarefy.engine.decoder.choose import Chosen
from rarefy.engine.decoder.layer_plan import laid_out
from rarefy.engine.decoder.model import CompiledDecoder
from rarefy.engine.decoder.parts import NotKnownError
from rarefy.engine.decoder.recognise import recognise
from rarefy.engine.decoder.runner import Runner
from rarefy.engine.decoder.stored import StoredLayers
from rarefy.engine.decoder.structure import Merged, Structure, rows_of
from rarefy.engine.explain import Explanation
from rarefy.engine.precision import Precision
from rarefy.engine.shared import Wanted, packs_of
from rarefy.ops import KernelInfo, PackedWeight, kernels

_SKIPPING = ("columns", "neurons")  # kernels of selected inputs and rows: they multiply floats, whatever the types are


@dataclass(frozen=True)
class _Source:
    """The weight of a merged layer as it is handed to `pack`."""

    merged: Merged
    names: tuple[str, ...]
    stored: StoredLayers
    precision: Precision
    scale: InputScale | None

    def __call__(self) -> Tensor | QuantizedWeight:
        parts = zip(self.names, self.merged.parts, strict=True)
        rows = [rows_of(part, self.stored.of(name)) for name, part in parts]
        weight = rows[0].contiguous() if len(rows) == 1 else torch.cat(rows)
        return self.precision.stored(weight, self.scale, self.merged.codes())


def restored_decoder(
    model: nn.Module, choices: Choices, stored: StoredLayers, explanation: Explanation
) -> CompiledDecoder:
    """The decoder with its layers packed for the chosen kernels, in a file that processes share where they can.

    The model need not hold the weights that `stored` gives. Raises EngineError for choices that do not fit the model.
    """
    try:
        structure = recognise(model)
    except NotKnownError as error:
        raise EngineError(f"load: it was compiled as a decoder, but {error}; compile the model again") from error
    if not structure.plain:
        raise EngineError("load: kernels were chosen for a model without bases or predictors; compile the model again")
    packs = _packs(structure, choices, stored)

    def chosen(merged: Merged) -> Chosen:
        steps = tuple((limit, packs.get((merged.name, kernel or ""))) for limit, kernel in choices.kernels[merged.name])
        return Chosen(merged, merged.bias(), steps)

    runner = Runner(structure, laid_out(structure, chosen))
    return CompiledDecoder(model, runner, _output_of(structure), explanation, choices, stored)


def _packs(structure: Structure, choices: Choices, stored: StoredLayers) -> dict[tuple[str, str], PackedWeight]:
    """By merged layer and kernel."""
    merged = {one.name: one for one in structure.merged()}
    if merged.keys() != choices.kernels.keys():
        name = min(merged.keys() ^ choices.kernels.keys())
        raise EngineError(f"load: the layers of the model are others, {name} is one; compile the model again")
    known = {kernel.name: kernel for kernel in kernels()}
    pairs = [(name, kernel) for name, steps in choices.kernels.items() for kernel in _names(steps)]
    wanted = [_wanted(merged[name], known.get(kernel), choices, stored) for name, kernel in pairs]
    return dict(zip(pairs, packs_of(wanted, _key(choices, stored)), strict=True))


def _names(steps: Steps) -> list[str]:
    return list(dict.fromkeys(kernel for _, kernel in steps if kernel is not None))


def _wanted(merged: Merged, kernel: KernelInfo | None, choices: Choices, stored: StoredLayers) -> Wanted:
    names, precision = choices.parts.get(merged.name, (merged.name,)), choices.precision
    if len(names) != len(merged.parts):
        raise EngineError(
            f"load: {merged.name} is {len(merged.parts)} layers, not {len(names)}; compile the model again"
        )
    types = (precision.weights, "fp32"), (precision.weights, precision.activations)
    if kernel is None or (kernel.weights, kernel.activations) not in types:
        raise EngineError(f"load: the kernel chosen for {merged.name} is none of {precision}; compile the model again")
    scale = choices.scales.get(merged.name)
    source = _Source(merged, tuple(names), stored, precision, scale)
    given = None if kernel.op in _SKIPPING else scale
    return Wanted(merged.name, kernel.name, (merged.out_features, merged.in_features), given, source, lasting=True)


def _key(choices: Choices, stored: StoredLayers) -> dict[str, Any] | None:
    """What the packed weights depend on besides the machine."""
    if stored.fingerprint is None:
        return None
    factors = {name: choices.scales[name].factors for name in sorted(choices.scales)}
    return {
        "weights": stored.fingerprint,
        "decoder": {name: _names(steps) for name, steps in choices.kernels.items()},
        "precision": asdict(choices.precision),
        "folded": hashlib.sha256(json.dumps(factors).encode()).hexdigest(),
    }


def _output_of(structure: Structure) -> type:
    """The class of the model's outputs."""
    from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions, CausalLMOutputWithPast

    return CausalLMOutputWithCrossAttentions if structure.kind.startswith("GPT2") else CausalLMOutputWithPast
