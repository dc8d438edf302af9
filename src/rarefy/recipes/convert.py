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
from rarefy.formats.folder import read, read_contents, read_json
from rarefy.formats.held import Held, dense
from rarefy.formats.interchange import SHARD_BYTES, write_tensors
from rarefy.recipes.store_activations import forget_activations, weights_alone
from rarefy.recipes.store_carry import carry_companions
from rarefy.recipes.store_engine import forget_engine
from rarefy.recipes.store_hf import NEVER, compression_block, without


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
    `gguf-dense`. Weights come out equal to the last bit, zeros among them, unless a note says otherwise.
    Raises FileError, ModelError, or UnknownNameError for another `to`.
    """
    if to not in TARGETS:
        raise unknown_name("convert --to", to, TARGETS)
    source, target, options = Path(source), Path(target), options or Options()
    if target.resolve() == source.resolve():
        raise FileError(f"convert: {target} is the source as well; give another folder, so that nothing is lost")
    return TARGETS[to](source, target, options)


def weights_of(source: Path, options: Options, *, config_alone: bool = False) -> dict[str, Tensor | Held]:
    """The stored tensors of a model, each once, an adapter's changes in them.

    config_alone: the reader knows no widths but those of config.json; a FileError if the model has others.
    """
    contents = read_contents(source, mapped=True)
    if config_alone and (odd := sorted({*contents.widths.resized, *contents.widths.counts})):
        raise FileError(
            f"convert: {source}: {odd[0]!r} and {len(odd) - 1} more have widths that config.json does not say, so "
            "other programs cannot build the model; use rarefy.load, or --to onnx or openvino, which need no config"
        )
    if options.adapter is None:
        return dict(contents.tensors)
    changes = read(options.adapter)
    if not any(isinstance(entry, Delta) for entry in changes.values()):
        raise FileError(f"convert: {options.adapter} holds no SHiRA or Super-Tuning changes; give the adapter's folder")
    named = {contents.aliases.get(name, name): entry for name, entry in changes.items()}
    return merge(contents.tensors, named)


def _folder(source: Path, target: Path, options: Options, *, to: str, layout: str) -> Conversion:
    notes = weights_alone(source)
    tensors = {name: dense(entry) for name, entry in weights_of(source, options, config_alone=source.is_dir()).items()}
    written = write_tensors(target, tensors, layout=layout, shard_bytes=options.shard_bytes)
    files = list(written.files)
    if source.is_dir():
        files += carry_companions(source, target)
        if (source / "config.json").exists():
            files += _write_config(source, target, layout, written.sparse)
    forget_engine(target)
    forget_activations(target)
    if layout != "dense" and not written.sparse:
        notes += ("nothing fitted the layout; every tensor is dense",)
    return conversion(to, target, files, written.sparse, notes)


def _write_config(source: Path, target: Path, layout: str, sparse: Mapping[str, float]) -> list[str]:
    plain: dict[str, Any] = without(read_json(source / "config.json"), NEVER)
    if sparse:
        modules = [name.removesuffix(".weight") for name in sparse]
        plain["quantization_config"] = compression_block(layout, modules, sum(sparse.values()) / len(sparse))
    write_text(target / "config.json", json.dumps(plain, indent=2, sort_keys=True) + "\n")
    return ["config.json"]


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
