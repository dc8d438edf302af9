"""A digest of whatever decides a result: tensors by their bytes, functions by their code and what they close over."""

import hashlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core import errors
from rarefy.core.errors import DataError

_CODE = ("core", "patterns", "scores", "allocations", "solvers", "calibration", "pruning", "recipes/evaluations")
_DEEP = 40


def digest(thing: object) -> str:
    """64 hexadecimal digits of the content of plain data, tensors, modules, dataclasses and functions.

    Of a function: its byte code, constants, defaults and closure; the globals that it names are not looked into.
    """
    sha = hashlib.sha256()
    _feed(sha, thing, 0)
    return sha.hexdigest()


def code_digest(folders: Sequence[str] = _CODE) -> str:
    """Of the source files that decide what a pruned model is, and of torch's version.

    folders: of the package, "" for all of it.
    """
    sha = hashlib.sha256(torch.__version__.encode())
    root = Path(errors.__file__).parents[1]  # `rarefy.__path__` may begin with a folder that holds the binary only
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()


def _feed(sha: Any, thing: object, depth: int) -> None:
    """Tags and lengths go in as well, so that ("ab", "c") and ("a", "bc") differ."""
    if depth > _DEEP:
        raise DataError(f"compare: {type(thing).__name__} is nested more than {_DEEP} deep or holds itself")
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes):
        _tag(sha, name, repr(thing))
    elif isinstance(thing, Tensor):
        _tag(sha, "tensor", f"{thing.dtype} {tuple(thing.shape)}")
        sha.update(_bytes(thing))
    elif isinstance(thing, nn.Module):
        _tag(sha, name, str(thing))
        _feed(sha, dict(thing.state_dict()), depth + 1)
    elif isinstance(thing, type | types.BuiltinFunctionType):
        _tag(sha, name, f"{thing.__module__}.{thing.__qualname__}")
    else:
        parts = _parts(thing)
        _tag(sha, name, str(len(parts)))
        for part in parts:
            _feed(sha, part, depth + 1)


def _tag(sha: Any, kind: str, text: str) -> None:
    sha.update(f"{kind}:{len(text)}:{text};".encode("utf-8", "surrogatepass"))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""


def _parts(thing: Any) -> list[Any]:
    """What a compound thing consists of, in an order that does not change from run to run."""
    if isinstance(thing, Mapping):
        return [part for item in thing.items() for part in item]
    if isinstance(thing, set | frozenset):
        return sorted(digest(part) for part in thing)
    if isinstance(thing, list | tuple | range):
        return list(thing)
    if isinstance(thing, types.FunctionType):
        closed = [cell.cell_contents for cell in thing.__closure__ or ()]
        return [thing.__qualname__, thing.__code__, thing.__defaults__, thing.__kwdefaults__, closed]
    if isinstance(thing, types.CodeType):
        return [thing.co_code, thing.co_names, thing.co_varnames, thing.co_consts]
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, thing.args, thing.keywords]
    if is_dataclass(thing):
        return [(field.name, getattr(thing, field.name)) for field in fields(thing)]
    if hasattr(thing, "__array__") and hasattr(thing, "tobytes"):
        return [str(getattr(thing, "dtype", "")), str(getattr(thing, "shape", "")), thing.tobytes()]
    return [vars(thing)] if hasattr(thing, "__dict__") else [repr(thing)]
