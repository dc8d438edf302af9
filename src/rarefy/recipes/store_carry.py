"""The small files that make a folder of weights usable: tokenizer, pooling, licence. Never code, never pickles."""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from torch import nn

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file

_PATTERNS = (
    *("tokenizer*.json", "tokenizer.model", "spiece.model", "sentencepiece*.model", "vocab*.txt", "vocab*.json"),
    *("merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
    *("modules.json", "sentence_*_config.json", "config_sentence_transformers.json", "[0-9]*_*/config.json"),
    "[0-9]*_*/model.safetensors",  # a sentence encoder's own dense layer after pooling
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("README.md", "LICENSE*", "NOTICE*"),
)
_KINDS = frozenset({"", ".json", ".txt", ".model", ".md", ".jinja", ".safetensors"})
LARGEST = 64 * 2**20
"""Bytes. Above this a companion is not small, and left out would be worse than refused."""


def origin_of(model: nn.Module) -> Path | None:
    """The local folder that a Hugging Face model was loaded from, if it is one and is still there."""
    said = getattr(getattr(model, "config", None), "_name_or_path", None)
    return Path(said) if isinstance(said, str) and said and (Path(said) / "config.json").is_file() else None


def carry_companions(source: Path, target: Path) -> list[str]:
    """Copies the companion files of a model folder, each replaced as a whole; gives their names."""
    if not source.is_dir():
        raise FileError(f"save: carry={str(source)!r} is not a folder; give the folder that the model came from")
    names = sorted(set(_companions(source)))
    if source.resolve() == target.resolve():
        return names
    for name in names:
        size = (source / name).stat().st_size
        if not _is_its_own(source / name, source.resolve()):
            raise FileError(
                f"save: companion {source / name} is a link to a file elsewhere; put a copy in its place, or give "
                "carry=False"
            )
        if size > LARGEST:
            raise FileError(
                f"save: companion {source / name} has {size} bytes, more than {LARGEST}; move it away, or give "
                "carry=False"
            )
        replace_file(target / name, partial(shutil.copyfile, source / name))
    return names


def _companions(source: Path) -> Iterator[str]:
    for pattern in _PATTERNS:
        for file in source.glob(pattern):
            if file.is_file() and file.suffix.lower() in _KINDS:
                yield file.relative_to(source).as_posix()


def _is_its_own(file: Path, folder: Path) -> bool:
    """Whether a file lies in its folder, links followed: what they lead to elsewhere may be nobody's to hand on.

    The cache of Hugging Face keeps the files of a folder (`snapshots/<revision>`) in `blobs` beside it.
    """
    place = file.resolve()
    blobs = folder.parent.parent / "blobs"
    return place.is_relative_to(folder) or (folder.parent.name == "snapshots" and place.parent == blobs)
