"""`rarefy convert`: a model from one folder to another, in the form that other programs read."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rarefy.core.errors import FileError, unknown_name
from rarefy.formats.adapters import Delta, merge
from rarefy.formats.atomic import write_text
from rarefy.formats.container import Contents
from rarefy.formats.folder import read, read_contents, read_json
from rarefy.formats.held import Held
from rarefy.formats.interchange import SHARD_BYTES, write_tensors
from rarefy.recipes.convert_scaled import LaidOut, block, lay_out
from rarefy.recipes.store_activations import forget_activations, weights_alone
from rarefy.recipes.store_carry import carry_companions
from rarefy.recipes.store_config import NEVER, without
from rarefy.recipes.store_engine import forget_engine
from rarefy.recipes.store_split import split_modules


@dataclass(frozen=True)
class Conversion:
    """What was written. sparse: {weight: zeros} of what is stored sparse; notes: what a reader must know."""

    to: str
    path: str
    files: tuple[str, ...]
    file_bytes: int
    sparse: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.to}: {self.path}, {len(self.files)} files, {self.file_bytes / 1e6:.2f} MB"]
        if self.sparse:
            mean = sum(self.sparse.values()) / len(self.sparse)
            lines.append(f"{len(self.sparse)} weights stored sparse, {mean:.1%} zeros on average")
        return "\n".join([*lines, *self.notes])


@dataclass(frozen=True)
class Options:
    """adapter: a folder of PEFT (SHiRA, Super-Tuning) to be merged in; shard_bytes: of hf and the bitmasks;
    sparse_initializers: of onnx."""

    adapter: Path | None = None
    shard_bytes: int = SHARD_BYTES
    sparse_initializers: bool = False


def convert(source: Path, target: Path, to: str, options: Options | None = None) -> Conversion:
    """Reads `source`, a file or a folder in any layout that `formats.read` knows, and writes the folder `target`.

    to: `hf` (dense, for every loader), `bitmask` and `bitmask-24` (compressed-tensors 0.9 to 0.14), `onnx`, `openvino`,
    `gguf-dense`. Weights come out equal to the last bit, zeros among them, unless a note says otherwise. The bitmasks
    keep integers and 8-bit floats with the scales beside them; everything else gets the dense weights they stand for.
    Raises FileError, ModelError, or UnknownNameError for another `to`.
    """
    if to not in TARGETS:
        raise unknown_name("convert --to", to, TARGETS)
    source, target, options = Path(source), Path(target), options or Options()
    if target.resolve() == source.resolve():
        raise FileError(f"convert: {target} is the source as well; give another folder, so that nothing is lost")
    return TARGETS[to](source, target, options)


def require_widths_of_config(contents: Contents, source: Path) -> None:
    """FileError if the model has widths that only the manifest says, or split layers: readers of the target know
    config.json alone."""
    if layers := sorted(split_modules(contents.tensors)):
        raise FileError(
            f"convert: {source}: {layers[0]!r} and {len(layers) - 1} more are split feed-forward layers, which other "
            "programs cannot build; use rarefy.load, or --to onnx or openvino, which need no config"
        )
    if odd := sorted({*contents.widths.resized, *contents.widths.counts}):
        raise FileError(
            f"convert: {source}: {odd[0]!r} and {len(odd) - 1} more have widths that config.json does not say, so "
            "other programs cannot build the model; use rarefy.load, or --to onnx or openvino, which need no config"
        )


def weights_of(contents: Contents, options: Options) -> Mapping[str, Tensor | Held]:
    """The stored tensors of a model, each once, an adapter's changes in them."""
    if options.adapter is None:
        return contents.tensors
    changes = read(options.adapter)
    if not any(isinstance(entry, Delta) for entry in changes.values()):
        raise FileError(f"convert: {options.adapter} holds no SHiRA or Super-Tuning changes; give the adapter's folder")
    named = {contents.aliases.get(name, name): entry for name, entry in changes.items()}
    return merge(contents.tensors, named)


def _folder(source: Path, target: Path, options: Options, *, to: str, layout: str) -> Conversion:
    notes = weights_alone(source)
    contents = read_contents(source, mapped=True)
    if source.is_dir():
        require_widths_of_config(contents, source)
    laid = lay_out(contents.tensors, weights_of(contents, options), scales=layout != "dense")
    written = write_tensors(target, laid.tensors, layout=layout, shard_bytes=options.shard_bytes)
    notes += laid.notes
    files = list(written.files)
    if source.is_dir():
        files += carry_companions(source, target)
        if (source / "config.json").exists():
            files.append("config.json")
            notes += _write_config(source, target, layout, written.sparse, laid)
    forget_engine(target)
    forget_activations(target)
    if layout != "dense" and not written.sparse:
        notes += ("nothing fitted the layout; every tensor is dense",)
    return conversion(to, target, files, written.sparse, notes)


def _write_config(
    source: Path, target: Path, layout: str, sparse: Mapping[str, float], laid: LaidOut
) -> tuple[str, ...]:
    """Notes on what the config can say of the weights."""
    config = read_json(source / "config.json")
    plain: dict[str, Any] = without(config, NEVER)
    said, notes = block(config, layout, sparse, laid)
    if said is not None:
        plain["quantization_config"] = said
    write_text(target / "config.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")
    return notes


def conversion(
    to: str, target: Path, files: list[str], sparse: Mapping[str, float] | None = None, notes: tuple[str, ...] = ()
) -> Conversion:
    names = tuple(sorted(set(files)))
    size = sum((target / name).stat().st_size for name in names)
    return Conversion(to, str(target), names, size, sparse or {}, notes)


def _onnx(source: Path, target: Path, options: Options) -> Conversion:
    from rarefy.recipes.convert_graph import to_onnx

    return to_onnx(source, target, options)


def _openvino(source: Path, target: Path, options: Options) -> Conversion:
    from rarefy.recipes.convert_graph import to_openvino

    return to_openvino(source, target, options)


def _gguf(source: Path, target: Path, options: Options) -> Conversion:
    from rarefy.recipes.convert_gguf import to_gguf

    return to_gguf(source, target, options)


TARGETS: Mapping[str, Callable[[Path, Path, Options], Conversion]] = {
    "hf": partial(_folder, to="hf", layout="dense"),
    "bitmask": partial(_folder, to="bitmask", layout="sparse-bitmask"),
    "bitmask-24": partial(_folder, to="bitmask-24", layout="sparse-24-bitmask"),
    "onnx": _onnx,
    "openvino": _openvino,
    "gguf-dense": _gguf,
}
