"""What times depend on besides the layer: the processor, what of it may be used, the threads, and the programs."""

import hashlib
import json
from functools import cache
from typing import Any

import torch

from rarefy.engine.cpu import cpu_name
from rarefy.ops import build, features


def machine(threads: int | None = None) -> dict[str, Any]:
    """Everything that a measured time is only valid with. threads: of the kernels (torch's own number if None)."""
    return {**_fixed(), "threads": threads or torch.get_num_threads()}


def machine_id(threads: int | None = None) -> str:
    """The machine as a short key."""
    text = json.dumps(machine(threads), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def _fixed() -> dict[str, Any]:
    return {"cpu": cpu_name(), "features": features(), "build": build(), "torch": torch.__version__}
