"""What this machine reaches at most, measured: multiply-adds by type, and reading from memory."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rarefy.core.quantized import quantize_weight
from rarefy.engine.cache import Record, TimingCache
from rarefy.ops import candidates, pack

_KEY = "ceiling"
_SIDE = 1024
_READ_BYTES = 1 << 27  # well beyond last-level caches of a few tens of megabytes
_TURNS = 5


@dataclass(frozen=True)
class Ceiling:
    """gbps: of reading memory; gflops: of dense products by the type of their inputs (a multiply-add counts as two)."""

    gbps: float
    gflops: dict[str, float]

    def share(self, gbps: float | None, gflops: float | None, kind: str) -> float | None:
        """The part of the roofline that a step reaches: of the bandwidth or of the arithmetic, whichever is more.

        Source: Williams, Waterman, Patterson 2009. More than 1 says that what was read lay in the caches.
        """
        parts = [a / b for a, b in ((gbps, self.gbps), (gflops, self.gflops.get(kind, 0.0))) if a is not None and b]
        return max(parts, default=None)


def ceiling(cache: TimingCache = TimingCache()) -> Ceiling:
    """The ceilings of this machine and number of threads: measured once a process, a quarter of a second, and the best
    of what the cache has seen, since whatever else runs can only lower them."""
    found = _best_seen(cache, torch.get_num_threads())
    return Ceiling(found["gbps"], {name: rate for name, rate in found.items() if name != "gbps"})


@functools.cache
def _best_seen(cache: TimingCache, threads: int) -> dict[str, float]:
    known, now = cache.get(_KEY), _measured()
    before = {} if known is None else known.ms
    found = {name: max(rate, before.get(name, 0.0)) for name, rate in now.items()}
    cache.put(_KEY, Record(found))
    return found


def _measured() -> dict[str, float]:
    with torch.inference_mode():
        data = torch.ones(_READ_BYTES // 4)
        found = {"gbps": data.nbytes / _best(data.sum) / 1e9}
        a = torch.randn(_SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
        found["fp32"] = 2e-9 * _SIDE**3 / _best(lambda: a @ a)
        half = a.bfloat16()
        found["bf16"] = 2e-9 * _SIDE**3 / _best(lambda: half @ half)
        stored = quantize_weight(a.repeat(4, 1), 8)
        dense = [name for name in candidates(stored, _SIDE, "int8", "int8") if name.startswith("dense8")]
        if dense:
            packed = pack(stored, dense[0])
            found["int8"] = 8e-9 * _SIDE**3 / _best(lambda: packed.multiply(a, None, "none"))
    return found


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    call()
    seconds = []
    for _ in range(_TURNS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
