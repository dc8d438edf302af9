"""Whether the native module is there, and what it can do on this CPU.

The module is missing when the package was installed without a compiler; `RAREFY_NATIVE=0` acts as if it were. Then the
portable path in torch gives the same results, slowly, and one warning says so.
"""

import hashlib
import importlib
import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch  # noqa: F401  # first: its OpenMP runtime must be the one that the native threads use

LEVELS = ("scalar", "avx2", "avx512", "vnni", "vbmi2", "amx")  # each contains the ones before it


@dataclass(frozen=True)
class KernelInfo:
    """One compiled kernel.

    name: what `pack(kernel=...)` takes; op: its family, such as "spmm" (many tokens) or "spmv" (few); isa: what the CPU
    must have; weights, activations: the types stored and multiplied ("fp32", "bf16", "int8", "int4");
    tile: (weight rows in a step, tokens, input features), zero where a dimension is not tiled.
    """

    name: str
    op: str
    isa: str
    weights: str
    activations: str
    tile: tuple[int, int, int]


@cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("RAREFY_NATIVE", "").strip() == "0":
        return None, "RAREFY_NATIVE=0 is set; unset it to use the native kernels"
    try:
        loaded = importlib.import_module("rarefy._native")
    except ImportError as error:
        return None, f"the native module cannot be imported ({error}); reinstall rarefy where a C++20 compiler is found"
    return loaded, None


def module() -> ModuleType | None:
    """The native module, or None; the first None comes with a warning that says what to do."""
    loaded, reason = _load()
    if loaded is None:
        _warn_once(reason)
    return loaded


@cache
def _warn_once(reason: str | None) -> None:
    warnings.warn(f"rarefy runs without native kernels, several times slower: {reason}", RuntimeWarning, stacklevel=4)


def available() -> bool:
    """True when native kernels can be used."""
    return module() is not None


def why_not() -> str | None:
    """Why native kernels cannot be used, and what to do; None when they can."""
    module()
    return _load()[1]


@cache
def build() -> str:
    """A short hash of the native module's file, which changes with every kernel; "none" without the module."""
    native = module()
    if native is None or native.__file__ is None:
        return "none"
    return hashlib.sha256(Path(native.__file__).read_bytes()).hexdigest()[:16]


def features() -> dict[str, bool | str]:
    """What the CPU offers (`avx2`, `avx512f`, ...), the level in force (`isa`) and whose threads work (`thread_pool`).

    Raises ValueError when `RAREFY_ISA` is not one of `LEVELS`.
    """
    native = module()
    if native is None:
        return {"isa": "none", "thread_pool": "torch"}
    return {**native.features(), "isa": native.isa(), "thread_pool": native.thread_pool()}


def kernels() -> list[KernelInfo]:
    """Every compiled kernel that this process may use, in the order of preference of their listing."""
    native = module()
    if native is None:
        return []
    allowed = LEVELS.index(native.isa())
    listed = (KernelInfo(name, op, isa, w, a, (r, t, d)) for name, op, isa, w, a, r, t, d in native.kernels())
    return [kernel for kernel in listed if LEVELS.index(kernel.isa) <= allowed]
