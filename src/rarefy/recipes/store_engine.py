"""What lies beside the weights of a compiled model: which kernels were chosen where, and what it was compiled for.

`engine.json` and `engine_inputs.safetensors`. They hold no packed weights: the weights file is the truth, and is packed
at load for kernels that this process has, so nothing in these files can lead a kernel astray.
"""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import EngineError, FileError
from rarefy.core.quantized import InputScale
from rarefy.engine import Compiled, CompiledDecoder, Explanation, LayerRow
from rarefy.engine.capture import Example
from rarefy.engine.choices import Choices, Steps
from rarefy.engine.conv_scales import ConvScales
from rarefy.engine.precision import Precision
from rarefy.formats.atomic import write_text
from rarefy.formats.container import prepare, write
from rarefy.formats.folder import read, read_json
from rarefy.ops.conv8 import Scale
from rarefy.recipes.store_convs import conv_choices

FILE, INPUTS = "engine.json", "engine_inputs.safetensors"
LAYOUT = 1
_LABEL = re.compile(r"[a-z_]+(, [a-z0-9 ]+)?")  # "layers", or "graph, 4 images at a time"
_PLAIN = (bool, int, float, str, type(None))


def write_engine(model: Compiled | CompiledDecoder, folder: Path) -> list[str]:
    """Writes both files; their names. None where the model was compiled for arguments that no plain file
    holds, or with bases or predictors beside its layers."""
    choices = model.choices
    if choices is None or (choices.of_decoder and not choices.complete):
        return []
    tensors: dict[str, Tensor] = {}
    try:
        examples = [_example_out(example, i, tensors) for i, example in enumerate(choices.examples)]
    except TypeError:
        return []
    said = {
        "layout": LAYOUT,
        "kernels": {name: [list(step) for step in steps] for name, steps in choices.kernels.items()},
        "precision": asdict(choices.precision),
        "scales": {name: list(scale) for name, scale in choices.scales.items()},
        "image_scales": [{name: list(found) for name, found in one.items()} for one in choices.image_scales],
        "parts": {name: list(parts) for name, parts in choices.parts.items()},
        "convs": None if choices.convs is None else asdict(choices.convs),
        "examples": examples,
        "runs": list(choices.runs),
        "threads": choices.threads,
        "machine": dict(choices.machine),
        "complete": choices.complete,
        "explanation": model.explain().to_dict(),
    }
    if tensors:
        write(folder / INPUTS, prepare(tensors))
    write_text(folder / FILE, json.dumps(said, indent=1) + "\n")
    return [FILE, INPUTS] if tensors else [FILE]


def forget_engine(folder: Path) -> None:
    """Removes what an earlier compiled model left, which would not belong to new weights."""
    for name in (FILE, INPUTS):
        with suppress(OSError):
            (folder / name).unlink()


def read_engine(folder: Path) -> tuple[Choices, Explanation] | None:
    """What was written, None if nothing was. Raises FileError for a file that is damaged or of a later version."""
    path = folder / FILE
    if not path.exists():
        return None
    raw = read_json(path)
    if raw.get("layout") != LAYOUT:
        raise FileError(
            f"{path}: layout {raw.get('layout')!r}, this rarefy reads {LAYOUT}; upgrade, or delete the file"
        )
    tensors = read(folder / INPUTS) if (folder / INPUTS).exists() else {}
    try:
        return _choices(raw, tensors), _explanation(raw["explanation"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, EngineError) as error:
        raise FileError(
            f"{path}: is damaged ({type(error).__name__}: {error}); delete it to load the model as it was given"
        ) from error


def _choices(raw: Mapping[str, Any], tensors: Mapping[str, Any]) -> Choices:
    examples = tuple(_example_in(example, tensors) for example in raw["examples"])
    runs = tuple(map(_label, raw["runs"]))
    threads = raw["threads"]
    if len(runs) != len(examples) or not (threads is None or (type(threads) is int and threads > 0)):
        raise ValueError("runs or threads make no sense")
    return Choices(
        {str(name): _steps(steps) for name, steps in raw["kernels"].items()},
        Precision(**raw["precision"]),
        {str(name): _scale(*scale) for name, scale in raw["scales"].items()},
        examples,
        runs,
        threads,
        dict(raw["machine"]),
        bool(raw["complete"]),
        _image_scales(raw.get("image_scales", []), len(examples)),
        {str(name): tuple(map(str, parts)) for name, parts in raw.get("parts", {}).items()},
        conv_choices(raw.get("convs"), len(examples)),
    )


def _steps(raw: Any) -> Steps:
    steps = tuple((limit, kernel) for limit, kernel in raw)
    if not steps or any(type(n) is not int or n < 0 or not isinstance(k, str | None) for n, k in steps):
        raise ValueError(f"the kernels {raw!r} make no sense")
    return steps


def _positive(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value > 0


def _scale(scale: Any, zero: Any, factors: Any = ()) -> InputScale:
    if not (_positive(scale) and type(zero) is int and 0 <= zero <= 255 and all(map(_positive, factors))):
        raise ValueError(f"the input scale {scale!r}, {zero!r} or its factors make no sense")
    return InputScale(scale, zero, tuple(factors))


def _image_scales(raw: Any, examples: int) -> tuple[dict[str, ConvScales], ...]:
    if raw and len(raw) != examples:
        raise ValueError("there are scales of images for more or fewer examples")
    return tuple({str(name): _three(*scales) for name, scales in one.items()} for one in raw)


def _three(*scales: Any) -> ConvScales:
    of_result, of_image, of_added = (None if one is None else _byte_scale(*one) for one in scales)
    return of_result, of_image, of_added


def _byte_scale(scale: Any, zero: Any) -> Scale:
    found = _scale(scale, zero)
    return found.scale, found.zero


def _label(run: Any) -> str:
    if not (isinstance(run, str) and _LABEL.fullmatch(run)):
        raise ValueError(f"{run!r} names no way to run")
    return run


def _explanation(raw: Mapping[str, Any]) -> Explanation:
    rows = tuple(LayerRow(**{**row, "shape": tuple(row["shape"])}) for row in raw["rows"])
    rest = {**raw, "rows": rows, "whole": tuple(map(dict, raw["whole"])), "notes": tuple(map(str, raw["notes"]))}
    return Explanation(**rest)


def _example_out(example: Example, index: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """JSON of one call; its tensors go into `tensors`. Raises TypeError for what is neither tensor nor plain value."""

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[f"{index}.{name}"] = value
            return {"tensor": f"{index}.{name}"}
        if not isinstance(value, _PLAIN):
            raise TypeError(f"{name} is a {type(value).__name__}")
        return {"value": value}

    args, kwargs = example
    return {
        "args": [plain(str(i), value) for i, value in enumerate(args)],
        "kwargs": {name: plain(name, value) for name, value in kwargs.items()},
    }


def _example_in(raw: Mapping[str, Any], tensors: Mapping[str, Any]) -> Example:
    def value(said: Mapping[str, Any]) -> Any:
        if "tensor" not in said:
            return said["value"]
        held = tensors[said["tensor"]]
        return held if isinstance(held, Tensor) else held.to_dense()

    return tuple(map(value, raw["args"])), {str(name): value(said) for name, said in raw["kwargs"].items()}
