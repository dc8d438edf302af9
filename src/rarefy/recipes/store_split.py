"""Models whose feed-forward layers `ffsplit` split in two: known by the names of their tensors, and built again."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from torch import nn

from rarefy.core.errors import FileError, ModelError
from rarefy.selectors import feed_forwards
from rarefy.structured.ffsplit import empty_split

FORMAT = "rarefy-split"
"""What the folder's `quantization_config` says, so that loaders which know the config alone stop."""
_PART = re.compile(r"(?P<module>.+)\.(?P<part>(heavy|rest)\.(up|gate|down)(\.[01])?\.(weight|bias))")


def split_modules(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """{module: {part of it: tensor}} of the split feed-forward layers among the names of a model's tensors."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            found.setdefault(match["module"], {})[match["part"]] = name
    return {module: parts for module, parts in found.items() if "heavy.up.weight" in parts}


def split(
    model: nn.Module,
    shapes: Mapping[str, tuple[int, ...]],
    place: Path,
    find: Callable[[str], str | None] = str,
) -> None:
    """Puts an empty split layer where the file has the tensors of one. shapes: {tensor: shape} of the file.

    find: the name in this model of a module in the file, None to leave it out. The weights lie where the old ones did
    (the meta device). Raises FileError if no layer of the model can be that.
    """
    modules = split_modules(shapes)
    layers = {layer.name: layer for layer in feed_forwards(model)} if modules else {}
    for stored, parts in modules.items():
        name = find(stored)
        if name is None:
            continue
        try:
            if name not in layers:
                raise ModelError(f"it has no feed-forward layer {name!r} that could be split")
            model.set_submodule(name, empty_split(layers[name], {part: shapes[full] for part, full in parts.items()}))
        except ModelError as error:
            raise FileError(
                f"load: {place}: the file holds a split layer {name!r}, which does not fit the model that config.json "
                f"names ({error}); the weights and config.json do not belong together"
            ) from error
