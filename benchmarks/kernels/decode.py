"""Times one to a few tokens through a weight of every type and format, against dense torch and the speed of memory.

    cmake -S . -B build -DRAREFY_BENCHMARK=ON && cmake --build build
    python benchmarks/kernels/decode.py [--shapes 2048x2048] [--tokens 1] [--zeros 0.5] [--threads 1 2] [--append FILE]

Copies of each weight take turns until they fill --footprint megabytes, so that weights come from memory as they do in
a model. Rounds are interleaved; a time is the median round. Reading memory is timed in the same rounds, and the share
is of its median: 64 bytes at a time, fetched in advance, in large pages (benchmarks/kernels/read.cc).
"""

import argparse
import ctypes
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.patterns.nm import NM

HEAD = (
    "| layer | tokens | threads | kernel | zeros | ms | MB | bits a weight | GB/s | of reading | against torch fp32 |"
)
GROUP = 16


@dataclass(frozen=True)
class Contender:
    name: str
    zeros: float
    megabytes: float
    calls: list[Callable[[], object]]


def unstructured(out: int, width: int, zeros: float) -> Tensor:
    return torch.randn(out, width) * (torch.rand(out, width) >= zeros)


def in_groups(out: int, width: int, zeros: float) -> Tensor:
    keep = torch.rand(out, width // GROUP) >= zeros
    return torch.randn(out, width) * keep.repeat_interleave(GROUP, 1)


def weight_for(kernel: ops.KernelInfo, out: int, width: int, zeros: float) -> tuple[object, float]:
    """What the kernel's format is for, as it takes it, and its zeros."""
    form = kernel.name.split("-")[2]
    if form == "dense":
        weight, zeros = torch.randn(out, width), 0.0
    elif form == "fixed":
        weight = torch.randn(out, width)
        weight, zeros = weight * NM(2, 4).select(weight.abs(), 0.5), 0.5
    else:
        weight = in_groups(out, width, zeros) if form == "groups" else unstructured(out, width, zeros)
    if kernel.weights == "int4":
        return quantize_weight(weight, 4, GROUP), zeros
    return (quantize_weight(weight) if kernel.weights == "int8" else weight), zeros


def ours(kernel: ops.KernelInfo, x: Tensor, out: int, zeros: float, footprint: float) -> Contender:
    source, zeros = weight_for(kernel, out, x.shape[1], zeros)
    packs = [ops.pack(source, kernel.name)]
    packs += [ops.pack(source, kernel.name) for _ in range(int(footprint * 1e6 / packs[0].nbytes))]
    calls = [lambda p=p: p.multiply(x, None, "none") for p in packs]
    return Contender(kernel.name, zeros, packs[0].nbytes / 1e6, calls)


def theirs(name: str, dtype: torch.dtype, x: Tensor, out: int, footprint: float) -> Contender:
    weight = torch.randn(out, x.shape[1]).to(dtype)
    copies = [weight.clone() for _ in range(1 + int(footprint * 1e6 / weight.nbytes))]
    rows = x.to(dtype)
    calls = [lambda w=w: torch.nn.functional.linear(rows, w) for w in copies]
    return Contender(name, 0.0, weight.nbytes / 1e6, calls)


def wanted(zeros: float) -> list[ops.KernelInfo]:
    """The best instruction set's kernel of each format and pair of types."""
    found: dict[tuple[str, ...], ops.KernelInfo] = {}
    for kernel in ops.kernels():
        if kernel.op in ("spmv", "matvec", "matvec4") and not kernel.name.split("-")[2].startswith("wide"):
            index = "-index" in kernel.name
            if not (index and zeros < 0.75) and not (kernel.op == "matvec" and kernel.weights == "fp32"):
                found.setdefault((kernel.op, kernel.name.split("-")[2], kernel.weights, kernel.activations), kernel)
    return list(found.values())


def reader(build: Path) -> Callable[[int], float]:
    """GB/s of reading with some threads; torch's sum, which reads more slowly, where the loop is not built."""
    library = next(iter(build.glob("libread_loop.so")), None)
    if library is None:
        print(f"no read loop in {build} (configure with -DRAREFY_BENCHMARK=ON): torch's sum instead", file=sys.stderr)
        data = torch.ones(32 << 20)

        def by_sum(threads: int) -> float:
            start = time.perf_counter()
            data.sum()
            return data.nbytes / (time.perf_counter() - start) / 1e9

        return by_sum
    read = ctypes.CDLL(str(library)).read_gigabytes
    read.restype = ctypes.c_double
    return lambda threads: read(threads, 1)


def measure(contenders: list[Contender], threads: int, rounds: int, read: Callable[[int], float]) -> dict[str, float]:
    """Median seconds of a call by name, and GB/s of reading as "read"."""
    torch.set_num_threads(threads)
    times: dict[str, list[float]] = {c.name: [] for c in contenders} | {"read": []}
    order = list(contenders)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        times["read"].append(read(threads))
        for contender in order:
            start = time.perf_counter()
            for call in contender.calls:
                call()
            times[contender.name].append((time.perf_counter() - start) / len(contender.calls))
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def lines(
    contenders: list[Contender], shape: str, tokens: int, threads: int, found: dict[str, float], weights: int
) -> list[str]:
    out = [f"| {shape} | {tokens} | {threads} | reading | | | | | {found['read']:.1f} | 100 % | |"]
    for c in contenders:
        speed = c.megabytes / 1e3 / found[c.name]
        out.append(
            f"| {shape} | {tokens} | {threads} | {c.name} | {c.zeros:.0%} | {1e3 * found[c.name]:.3f} "
            f"| {c.megabytes:.2f} | {8e6 * c.megabytes / weights:.2f} | {speed:.1f} | {speed / found['read']:.0%} "
            f"| {found['torch fp32'] / found[c.name]:.2f}x |"
        )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=["2048x2048", "512x2048", "5632x2048", "2048x5632", "8192x2048"])
    parser.add_argument("--tokens", type=int, nargs="+", default=[1])
    parser.add_argument("--zeros", type=float, default=0.5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--footprint", type=float, default=48.0)
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--append", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    read, table = reader(options.build), []
    for shape, tokens in itertools.product(options.shapes, options.tokens):
        out, width = map(int, shape.split("x"))
        x = torch.randn(tokens, width)
        contenders = [ours(kernel, x, out, options.zeros, options.footprint) for kernel in wanted(options.zeros)]
        for name, dtype in (("torch fp32", torch.float32), ("torch bf16", torch.bfloat16)):
            contenders.append(theirs(name, dtype, x, out, options.footprint))
        for threads in options.threads:
            found = measure(contenders, threads, options.rounds, read)
            table += lines(contenders, shape, tokens, threads, found, out * width)
    text = "\n".join([HEAD, "|---" * 11 + "|", *table])
    print(text)
    if options.append is not None:
        with options.append.open("a") as file:
            file.write(f"\n`python {' '.join(sys.argv)}`, instruction set {ops.features()['isa']}\n\n{text}\n")


if __name__ == "__main__":
    main()
