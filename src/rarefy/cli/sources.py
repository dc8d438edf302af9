"""Where a model and its data come from: a local folder, files, or an object that the user names.

`module:name` is imported because the user typed it on the command line; no file can ask for an import.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from rarefy.core.errors import DataError, FileError, ModelError
from rarefy.formats.npy import read_npy
from rarefy.formats.safe import read_stored

_ROWS = 16  # rows of a stored array in one batch


def is_object(name: str) -> bool:
    """Whether a name is `module:attribute` and no path that exists."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and not Path(name).exists() and _dotted(module) and _dotted(attribute)


def _dotted(name: str) -> bool:
    return bool(name) and all(part.isidentifier() for part in name.split("."))


def imported(name: str) -> Any:
    """The object `module:attribute`, searched from the current folder as `python -m` does."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"{name}: {module} cannot be imported ({error}); give module:factory of a file in the current folder or of "
            "an installed package"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{name}: {module} has no {attribute!r}")
        found = getattr(found, part)
    return found


def model_of(name: str) -> nn.Module:
    """The model that `module:factory` makes, or is."""
    found = imported(name)
    model = found() if isinstance(found, type) or (not isinstance(found, nn.Module) and callable(found)) else found
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name}: gives a {type(model).__name__}, not an nn.Module; let the factory return the model")
    return model.eval()


def batches_of(name: str) -> list[Any]:
    """Batches of `module:batches` (an iterable, or a function that makes one), of a .npy or of a .safetensors file.

    Arrays are cut into batches of 16 rows; the tensors of a .safetensors file are the model's arguments by name.
    """
    if is_object(name):
        found = imported(name)
        return list(found() if callable(found) else found)
    path = Path(name)
    readers: dict[str, Callable[[Path], list[Any]]] = {".npy": _from_npy, ".safetensors": _from_safetensors}
    if path.suffix not in readers:
        raise DataError(
            f"--data: {name}: a plain PyTorch model takes module:batches, a .npy or a .safetensors file of inputs"
        )
    if not path.is_file():
        raise DataError(f"--data: {path} does not exist")
    return readers[path.suffix](path)


def _from_npy(path: Path) -> list[Any]:
    try:
        rows = read_npy(path)
    except FileError as error:
        raise DataError(f"--data: {error}") from None
    if rows.dim() < 2 or not rows.numel():
        raise DataError(f"--data: {path}: has shape {tuple(rows.shape)}; give (rows, ...) with at least one row")
    return list(rows.split(_ROWS))


def _from_safetensors(path: Path) -> list[Any]:
    try:
        tensors = read_stored(path)[1]
    except FileError as error:
        raise DataError(f"--data: {error}") from None
    lengths = {name: len(tensor) if tensor.dim() and tensor.numel() else 0 for name, tensor in tensors.items()}
    if not tensors or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise DataError(f"--data: {path}: the tensors have {lengths} rows; give each the same number, at least one")
    if len(tensors) == 1:
        return list(next(iter(tensors.values())).split(_ROWS))
    parts = {name: tensor.split(_ROWS) for name, tensor in tensors.items()}
    return [dict(zip(parts, batch, strict=True)) for batch in zip(*parts.values(), strict=True)]
