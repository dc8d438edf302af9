"""What lies beside the weights of a model whose activations are selected: selectors, predictors, turned bases, low-rank
parts.

`activations.json` and `activations.safetensors`. Tensors that a plain model of the class does not have lie here and not
among the weights, so that the weights still fit the class. The files name the fingerprint of the weights that they
belong to.
"""

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rarefy.activations.rank_aware import RankAware, replace_module
from rarefy.activations.rotation import hang_rotation, turned_modules
from rarefy.core.errors import FileError, RarefyError
from rarefy.formats.atomic import write_text
from rarefy.formats.container import Contents, Prepared, prepare, write
from rarefy.formats.folder import read_contents, read_json
from rarefy.recipes.store_selectors import PREDICTED, hang_selectors, say_selectors
from rarefy.recipes.store_state import dense

FILE, TENSORS = "activations.json", "activations.safetensors"
PLAIN, FORESEEN = 1, 2
"""Layouts of the file: the second may hold predictors, and is written where there are some."""


def extra_names(model: nn.Module) -> set[str]:
    """Names of the state that rarefy added to the model's class."""
    turned = {f"{name}.{buffer}" if name else buffer for name, buffer in turned_modules(model)}
    return turned | {f"{name}.{part}" for name in _low_rank(model) for part in ("left", "right")}


def _low_rank(model: nn.Module) -> dict[str, RankAware]:
    return {name: module for name, module in model.named_modules() if isinstance(module, RankAware)}


def class_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of layers with a low-rank part as the model's own class has them, where that is (in, out)."""
    names = [f"{name}.weight" for name, layer in _low_rank(model).items() if layer.transposed]
    return {name: tensors[name].t().contiguous() for name in names if name in tensors}


def transposes(folder: Path) -> bool:
    """Whether weights of the folder are turned over when what lies beside them is put on the model."""
    return (folder / FILE).exists() and bool(read_json(folder / FILE).get("transposed"))


def write_activations(model: nn.Module, folder: Path, extra: Mapping[str, Tensor], weights: Prepared) -> list[str]:
    """Writes both files where there is something to say; their names.

    What says where the rest belongs goes first: until all is written, `restore_activations` refuses the folder.
    """
    tensors = dict(extra)
    selectors = say_selectors(model, tensors)
    if not selectors and not tensors:
        return []
    said = {
        "layout": FORESEEN if any(said["kind"] == PREDICTED for said in selectors) else PLAIN,
        "weights": weights.metadata.get("rarefy.digest"),
        "selectors": selectors,
        "turned": [list(found) for found in turned_modules(model)],
        "low_rank": list(_low_rank(model)),
        "transposed": [name for name, layer in _low_rank(model).items() if layer.transposed],
    }
    prepared = prepare(tensors) if tensors else None
    said["tensors"] = prepared.metadata.get("rarefy.digest") if prepared else None
    write_text(folder / FILE, json.dumps(said, indent=1) + "\n")
    if prepared is None:
        return [FILE]
    write(folder / TENSORS, prepared)
    return [FILE, TENSORS]


def forget_activations(folder: Path, kept: Collection[str] = ()) -> None:
    """Removes what an earlier model left, after the new weights are written: old ones may not do without it."""
    for name in {FILE, TENSORS} - set(kept):
        with suppress(OSError):
            (folder / name).unlink()


def weights_alone(folder: Path) -> tuple[str, ...]:
    """What one has to know who takes the weights without what lies beside. Raises FileError if they need it."""
    if not (folder / FILE).exists():
        return ()
    raw = read_json(folder / FILE)
    if raw.get("turned"):
        raise FileError(
            f"{folder / FILE}: the weights are turned and mean nothing without its rotations, which other programs do "
            "not apply; give the model as it was before, or use rarefy.load"
        )
    return (f"its selectors ({FILE}) stay behind: every input of its layers counts, outputs differ from rarefy.load's",)


def restore_activations(model: nn.Module, folder: Path, contents: Contents) -> None:
    """Attaches what was written beside the weights, if anything was.

    Raises FileError for files that are damaged, of a later version, or of other weights.
    """
    path = folder / FILE
    if not path.exists():
        return
    raw = read_json(path)
    if raw.get("layout") not in (PLAIN, FORESEEN):
        raise FileError(f"{path}: layout {raw.get('layout')!r}, this rarefy reads up to {FORESEEN}; upgrade rarefy")
    beside = read_contents(folder / TENSORS) if raw.get("tensors") is not None else Contents({}, {}, own=True)
    if (raw.get("weights"), raw.get("tensors")) != (contents.fingerprint, beside.fingerprint):
        raise FileError(
            f"{path}: belongs to other weights than those beside it (a save was cut short?); save the model again"
        )
    try:
        _restore(model, raw, dense(beside))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, RarefyError) as error:
        raise FileError(f"{path}: does not fit the model ({type(error).__name__}: {error}); save it again") from error


def _restore(model: nn.Module, raw: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, buffer in raw["turned"]:
        if buffer not in ("residual_adapter", "rotation"):
            raise ValueError(f"{buffer!r} is no rotation")
        hang_rotation(model, name, buffer)
        place, held = getattr(model.get_submodule(name), buffer), tensors[f"{name}.{buffer}"]
        if held.shape != place.shape:
            raise ValueError(f"{buffer} of {name} is {tuple(held.shape)}, not {tuple(place.shape)}")
        place.copy_(held)
    for name in raw["low_rank"]:
        layer = model.get_submodule(name)
        left, right = (tensors[f"{name}.{part}"] for part in ("left", "right"))
        made = RankAware.of(layer, left, right)
        if made.transposed != (name in raw.get("transposed", ())):
            raise ValueError(f"the weight of {name} is not as its class has it, an earlier rarefy wrote it")
        replace_module(model, name, made)
    hang_selectors(model, raw["selectors"], tensors)
