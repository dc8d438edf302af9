"""Where a figure was measured: without this no figure can be compared with another."""

import datetime
import os
import platform
from importlib import metadata
from typing import Any

import torch

from rarefy.engine.cpu import cpu_name, int8_units
from rarefy.ops import features, why_not

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


def usable_cores() -> int:
    """Cores that this process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
