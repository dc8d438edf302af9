"""What of a saved model will be slow on this machine: layers that stay dense, and numbers too small to be fast."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from rarefy.engine import Compiled, CompiledDecoder
from rarefy.engine import compile as compile_model
from rarefy.engine.explain import Explanation, LayerRow
from rarefy.recipes.encoder import load_text_model

_TOKENS = 128  # of the text that is timed, where the model was not saved compiled
_SPARSE = 0.01  # a layer with fewer zeros than this share was not pruned


def examine_model(folder: Path) -> dict[str, Any]:
    """Findings by name: `layers` of the model, those that `stay dense` with the reason, `denormal weights` a tensor,
    and `slow` in words. Compiles a model that was not saved compiled. Raises FileError for a folder without a model."""
    text = load_text_model(folder)
    model: Any = text.model
    denormal = denormal_weights(model)
    if not isinstance(model, Compiled | CompiledDecoder):
        example = text.example(1, min(_TOKENS, text.max_tokens))
        decodes = callable(getattr(model, "can_generate", None)) and model.can_generate()
        model = compile_model(model, {"input_ids": example["input_ids"]} if decodes else example)
    explanation = model.explain()
    found = {
        "layers": len({row.name for row in explanation.rows}),
        "stay dense": dense_layers(explanation),
        "denormal weights": denormal,
        "notes": [note.removeprefix("note: ") for note in explanation.notes if note.startswith("note: ")],
    }
    return found | {"slow": _slow(found)}


def dense_layers(explanation: Explanation) -> list[dict[str, Any]]:
    """Layers that run dense at some number of tokens: name, zeros, those numbers, and the reason."""
    rows: dict[str, list[LayerRow]] = {}
    for row in explanation.rows:
        if row.kernel == "dense":
            rows.setdefault(row.name, []).append(row)
    return [
        {"layer": name, "zeros": of[0].sparsity, "tokens": [row.tokens for row in of], "reason": of[0].reason}
        for name, of in rows.items()
    ]


def denormal_weights(model: nn.Module) -> dict[str, int]:
    """{parameter: how many of its entries are too small for the normal format of its type}."""
    counts = {name: _denormals(parameter.detach()) for name, parameter in model.named_parameters()}
    return {name: count for name, count in counts.items() if count}


def _denormals(tensor: torch.Tensor) -> int:
    """Compared as integers where it matters: a thread that flushes denormals sees them as zeros."""
    if tensor.dtype != torch.float32:
        tiny = torch.finfo(tensor.dtype).tiny if tensor.dtype.is_floating_point else 0.0
        return int(((tensor != 0) & (tensor.abs() < tiny)).sum()) if tiny else 0
    bits = tensor.contiguous().view(torch.int32) & 0x7FFFFFFF
    return int(((bits > 0) & (bits < 0x00800000)).sum())


def _slow(found: dict[str, Any]) -> list[str]:
    said = [
        f"{one['layer']} has {one['zeros']:.0%} zeros and stays dense at {', '.join(map(str, one['tokens']))} tokens: "
        f"{one['reason']}"
        for one in found["stay dense"]
        if one["zeros"] >= _SPARSE
    ]
    if unpruned := [one["layer"] for one in found["stay dense"] if one["zeros"] < _SPARSE]:
        said.append(
            f"{len(unpruned)} layers have no zeros to skip: {', '.join(unpruned[:4])}{' ...' * (len(unpruned) > 4)}"
        )
    if found["denormal weights"]:
        total, names = sum(found["denormal weights"].values()), list(found["denormal weights"])
        said.append(
            f"{total} weights are denormal ({', '.join(names[:4])}): dense layers with them can be many times slower; "
            "set them to zero: weight[weight.abs() < torch.finfo(weight.dtype).tiny] = 0"
        )
    return said + found["notes"]
