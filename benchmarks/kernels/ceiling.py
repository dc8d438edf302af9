"""What this machine can do at most: dense float32 multiply-adds and reading memory, as torch reaches them."""

import time
from collections.abc import Callable

import torch


def best_of(call: Callable[[], object], times: int = 9) -> float:
    """Seconds of the fastest call."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def multiply_adds() -> float:
    """GFLOP/s of a large dense product."""
    a, b = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 2 * 1536**3 / best_of(lambda: a @ b) / 1e9


def read_bandwidth() -> float:
    """GB/s of summing 256 MB."""
    data = torch.ones(64 << 20)
    return data.nbytes / best_of(data.sum) / 1e9


def cpu() -> str:
    with open("/proc/cpuinfo") as file:
        fields = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    return " ".join({k.strip(): v.strip() for k, v in fields.items()}.get("model name", "unknown").split())
