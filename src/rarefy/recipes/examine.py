"""What a machine offers for sparse inference, and what will be slow on it and why."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from rarefy.engine.cache import TimingCache
from rarefy.engine.cpu import cpu_flags, cpu_name, int8_units
from rarefy.engine.rivals import RIVALS
from rarefy.ops import features, kernels, why_not
from rarefy.ops.native import LEVELS
from rarefy.recipes.denormals import flushes
from rarefy.recipes.environment import usable_cores, version

_SHOWN = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_vbmi2", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
_OPENMP = re.compile(r"/lib(?:gomp|iomp5|omp)[^/]*\.so[^/]*$")
_FLUSH = "torch's own threads do not flush denormals: dense layers of pruned models can be many times slower; "


def examine() -> dict[str, Any]:
    """Findings by name; `slow` lists, in words, what costs time here and what to do about it."""
    native = why_not()
    known = features()
    here, others = flushes()
    found: dict[str, Any] = {
        "cpu": cpu_name(),
        "features": [flag for flag in _SHOWN if flag in cpu_flags()],
        "int8": int8_units(),
        "native module": "yes" if native is None else native,
        "instruction set in force": str(known["isa"]),
        "threads come from": str(known["thread_pool"]),
        "timing cache": TimingCache().describe(),
        "kernels": [kernel.name for kernel in kernels()],
        "cores usable": usable_cores(),
        "torch threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torch matrix library": _matrix_library(),
        "denormals flushed": {
            "this thread": here,
            "torch's worker threads": others,
            "rarefy's kernels": native is None,
        },
        "openmp runtimes": openmp_runtimes(),
        "rivals": {name: rival.available() or "yes" for name, rival in RIVALS.items()},
        "versions": {name: version(name) or "not installed" for name in ("transformers", "matplotlib", "safetensors")},
    }
    found["slow"] = slow(found, native)
    return found


def _matrix_library() -> str:
    mkl = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    return f"{mkl}, {'oneDNN' if torch.backends.mkldnn.is_available() else 'no oneDNN'}"


def openmp_runtimes(maps: Path = Path("/proc/self/maps")) -> list[str] | None:
    """Paths of the OpenMP libraries that this process runs, one a file; None where the system does not tell.

    Copies of one library under one name are several runtimes; a file with several names (links) is one.
    """
    try:
        lines = maps.read_bytes().decode(errors="replace").split("\n")
    except OSError:
        return None
    found: dict[tuple[str, ...], str] = {}
    for line in lines:
        entry = line.split(maxsplit=5)  # addresses, permissions, offset, device, inode, path
        if len(entry) == 6 and "x" in entry[1] and _OPENMP.search(entry[5]):
            file = (entry[3], entry[4]) if entry[4] != "0" else (entry[5],)
            found.setdefault(file, entry[5])
    return sorted(found.values())


def _missing(level: str, cap: str | None) -> str | None:
    """Why kernels run with less than they could or should; None where the level is AVX-512 or more, and not capped."""
    if cap == level != LEVELS[-1]:
        return f"RAREFY_ISA={cap} caps it"
    return None if LEVELS.index(level) >= LEVELS.index("avx512") else "this CPU has no AVX-512"


def slow(found: dict[str, Any], native: str | None) -> list[str]:
    """What will be slow, why, and what to do."""
    said = []
    if native is not None:
        said.append(f"no native kernels: {native}")
    elif (why := _missing(found["instruction set in force"], os.environ.get("RAREFY_ISA"))) is not None:
        said.append(f"kernels run with {found['instruction set in force']}: {why}")
    threads, cores = found["torch threads"], found["cores usable"]
    if threads > cores:
        said.append(f"{threads} threads on {cores} usable cores: they wait for each other; set OMP_NUM_THREADS={cores}")
    elif threads < cores:
        said.append(f"{threads} of {cores} usable cores are used; unset OMP_NUM_THREADS or call torch.set_num_threads")
    runtimes = found["openmp runtimes"] or []
    if len(runtimes) > 1:
        listed = ", ".join(runtimes)
        said.append(
            f"{len(runtimes)} OpenMP runtimes are loaded ({listed}): their threads fight; install torch and its peers "
            "alike"
        )
    if found["denormals flushed"]["torch's worker threads"] is False:
        ours = "rarefy's kernels do flush; " if native is None else ""
        said.append(_FLUSH + ours + "where a layer stays dense, zero tiny weights first")
    return said
