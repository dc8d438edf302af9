"""Where a figure was measured: without this no figure can be compared with another."""

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from rarefy.engine.cpu import cpu_name, int8_units
from rarefy.ops import features, why_not
from rarefy.recipes.cpu_quota import cpu_quota

_PACKAGES = ("rarefy", "torch", "transformers", "onnxruntime", "openvino", "nncf")


def environment() -> dict[str, Any]:
    """Processor, threads, instruction set in force, versions and date."""
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "isa": str(features()["isa"]),
        "native": why_not() or "yes",
        "int8_units": int8_units(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := version(name)) is not None},
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those it may run on, or the time it may take, whichever is less.

    In a container both can be fewer than the machine's. root: see `cpu_quota`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, cpu_quota(root) or cores)
