"""What a file written by rarefy says about itself, in the metadata that every safetensors loader skips."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import FileError
from rarefy.formats.bitmask import PARTS
from rarefy.formats.codes import PARTS as CODE_PARTS
from rarefy.formats.names import join

LAYOUT = "1"
_LATER = ("codes", "resized", "counts")  # left out where empty, so that files without them are as they were
_KEYS = ("rarefy.layout", "rarefy.manifest", "rarefy.digest")


@dataclass(frozen=True)
class Manifest:
    """Layout version 1.

    sparse: {parameter: prefix of its four stored tensors}; codes: the same of those stored as integers;
    aliases: {tied name: parameter that holds it};
    digests: {stored tensor: sha256 of its name, type, shape and bytes};
    resized: {tensor: shape} of those that are not as the model's config has them; counts: {module: {attribute:
    integer}}, what such a module counts otherwise than the config.
    """

    sparse: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    codes: Mapping[str, str] = field(default_factory=dict)
    resized: Mapping[str, Sequence[int]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def parts(self) -> list[str]:
        """Names of stored tensors that are parts of others."""
        found = [join(prefix, part) for prefix in self.sparse.values() for part in PARTS]
        return found + [join(prefix, part) for prefix in self.codes.values() for part in CODE_PARTS]

    def to_metadata(self) -> dict[str, str]:
        said = {key: value for key, value in asdict(self).items() if value or key not in _LATER}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"))
        values = (LAYOUT, text, hashlib.sha256(text.encode()).hexdigest())
        return {"format": "pt", **dict(zip(_KEYS, values, strict=True))}


def digest(name: str, tensor: Tensor) -> str:
    """sha256 over what a stored tensor is: a change of any bit, of its name, type or shape changes it."""
    state = hashlib.sha256(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode("utf-8", "surrogatepass"))
    if tensor.numel():
        state.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def fingerprint(metadata: Mapping[str, str] | None) -> str | None:
    """sha256 over the digests of all tensors: equal for files of equal content. None if another program wrote it."""
    return (metadata or {}).get("rarefy.digest")


def from_metadata(metadata: Mapping[str, str] | None, path: object, tensors: int) -> Manifest | None:
    """The manifest of a file with so many stored tensors, None if another program wrote it.

    A FileError if it is damaged, from the future, or says far more than there is to say of them.
    """
    metadata = metadata or {}
    present = [key for key in _KEYS if key in metadata]
    if not present:
        return None
    if len(present) < len(_KEYS):
        raise FileError(f"{path}: metadata {sorted(set(_KEYS) - set(present))} is missing; the file is damaged")
    layout, text, signed = (metadata[key] for key in _KEYS)
    if layout != LAYOUT:
        raise FileError(f"{path}: its layout is version {layout!r}, this rarefy reads {LAYOUT!r}; upgrade rarefy")
    if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != signed:
        raise FileError(f"{path}: its manifest was altered; the file is damaged, get it again")
    if text.count(",") > 8 * tensors + 1000:
        raise FileError(f"{path}: its manifest names far more than its {tensors} tensors; get the file again")
    return _parse(text, path)


def _parse(text: str, path: object) -> Manifest:
    try:
        raw = json.loads(text)
        manifest = Manifest(**raw)
        maps = (manifest.sparse, manifest.aliases, manifest.digests, manifest.codes)
        texts = all(isinstance(m, dict) and all(isinstance(v, str) for v in m.values()) for m in maps)
        if texts and _are_widths(manifest.resized, manifest.counts):
            return manifest
    except (ValueError, TypeError, RecursionError):
        pass
    raise FileError(f"{path}: its manifest cannot be read; the file was not written by rarefy or is damaged")


def _are_widths(resized: object, counts: object) -> bool:
    """Whether both hold names and integers that sizes can be; what they say is compared with the tensors later."""
    return (
        isinstance(resized, dict)
        and isinstance(counts, dict)
        and all(isinstance(shape, list) and all(map(_is_size, shape)) for shape in resized.values())
        and all(isinstance(said, dict) and all(map(_is_size, said.values())) for said in counts.values())
    )


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def check(manifest: Manifest, stored: Mapping[str, Tensor], path: object) -> None:
    """Refuses a file whose tensors are not exactly those that its manifest names, bit for bit."""
    for word, names in (
        ("missing", sorted(manifest.digests.keys() - stored.keys())),
        ("not in its manifest", sorted(stored.keys() - manifest.digests.keys())),
    ):
        if names:
            raise FileError(f"{path}: tensor {names[0]!r} and {len(names) - 1} more are {word}; get the file again")
    for name, tensor in stored.items():
        if digest(name, tensor) != manifest.digests[name]:
            raise FileError(f"{path}: tensor {name!r} was altered (its sha256 differs); get the file again")
    _check_names(manifest, stored, path)


def check_shapes(manifest: Manifest, tensors: Mapping[str, Any]) -> None:
    """Refuses shapes that are not those of the tensors. tensors: by their names, whatever they are stored as."""
    for name, shape in manifest.resized.items():
        held = tensors.get(manifest.aliases.get(name, name))
        if held is None or tuple(held.shape) != tuple(shape):
            found = "not there" if held is None else f"{tuple(held.shape)}"
            raise FileError(
                f"the manifest contradicts the tensors: {name!r} is {found}, not {tuple(shape)}; get the file again"
            )


def _check_names(manifest: Manifest, stored: Mapping[str, Tensor], path: object) -> None:
    parts = manifest.parts
    absent = [part for part in parts if part not in stored]
    plain = stored.keys() - set(parts)
    made = manifest.sparse.keys() | manifest.codes.keys()
    held = plain | made
    wrong = [
        *absent,
        *(plain & made),
        *(manifest.sparse.keys() & manifest.codes.keys()),
        *(alias for alias, name in manifest.aliases.items() if name not in held or alias in held),
    ]
    if wrong or len(set(parts)) < len(parts):
        raise FileError(f"{path}: the manifest contradicts the tensors at {sorted(wrong)[:3]}; get the file again")
