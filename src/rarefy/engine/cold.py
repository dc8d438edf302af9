"""Times of layers whose weights come from memory: a large model's at a few tokens never stay in the caches."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}
_UNKNOWN = 32 * 2**20
_TIMES = 2  # the caches, that nothing of what was used before stays


@cache
def last_level_cache() -> int:
    """Bytes of the largest cache that the first processor uses, as Linux tells it; 32 MiB where it does not."""
    found = [_size(index) for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")]
    return max(found, default=0) or _UNKNOWN


def _size(index: Path) -> int:
    try:
        text = (index / "size").read_text().strip()
        return int(text[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[text[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def streams(model: nn.Module, weights: str) -> bool:
    """Whether a model whose weights are stored in that type is read from memory again for every token."""
    return sum(p.numel() for p in model.parameters()) * _BYTES[weights] > _TIMES * last_level_cache()


def evictor() -> Callable[[], Any]:
    """A call after which nothing that was used before it is in a cache."""
    return torch.ones(_TIMES * last_level_cache() // 4).sum
