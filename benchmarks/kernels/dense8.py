"""Times the 8-bit products beside oneDNN's (what torch's quantised linear layers call), in one process, interleaved.

    python benchmarks/kernels/dense8.py [--threads 2] [--tokens 1 16 128 2048] [--zeros 0.5] [--out table.md]
    RAREFY_ISA=vnni ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI python benchmarks/kernels/dense8.py      # a CPU without AMX

All read the same bytes of one scale and zero point, add a bias and write floats. Times are those of the fastest round;
"faster" is said only where the slowest kept round (a quarter is dropped) is faster than the other's fastest.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ceiling import cpu

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight

SHAPES = ((384, 384), (1536, 384), (384, 1536), (3072, 768), (768, 3072))
Call = Callable[[], object]


def ours(name: str, weight: QuantizedWeight, x: torch.Tensor, bias: torch.Tensor) -> Call:
    packed = ops.pack(weight, name)
    scale, zero = torch.tensor([0.02]), torch.tensor([120], dtype=torch.int32)

    def call() -> torch.Tensor:
        out = torch.empty(x.shape[0], weight.shape[0])
        packed.layout.multiply8(
            x.data_ptr(), x.shape[0], scale.data_ptr(), zero.data_ptr(), 0, bias.data_ptr(), 0, out.data_ptr(), 0.0, 0,
            0, torch.get_num_threads(),
        )  # fmt: skip
        return out

    return call


def onednn(weight: QuantizedWeight, x: torch.Tensor, bias: torch.Tensor) -> Call:
    prepacked = torch.ops.onednn.qlinear_prepack(weight.values, list(x.shape))
    scales, zeros = weight.scale.flatten(), torch.zeros(weight.shape[0], dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        x, 0.02, 120, prepacked, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
    )


def contenders(out: int, width: int, tokens: int, zeros: float) -> dict[str, Call]:
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(out, width, generator=generator)
    x = torch.randint(0, 256, (tokens, width), generator=generator).to(torch.uint8)
    bias = torch.randn(out, generator=generator)
    weight = quantize_weight(dense * (torch.rand(out, width, generator=generator) >= zeros))
    calls = {"onednn": onednn(weight, x, bias)}
    for name in ops.candidates(weight, tokens, "int8", "int8"):
        if name.startswith(("dense8", "expand8")):
            calls[name] = ours(name, weight, x, bias)
    return calls


def rounds_of(calls: dict[str, Call], rounds: int, seconds: float = 0.002) -> dict[str, list[float]]:
    """Seconds of a call in every round; short calls are repeated within a round."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                calls[name]()
            times[name].append((time.perf_counter() - start) / repeats[name])
    return times


def verdict(mine: list[float], other: list[float]) -> str:
    kept_mine, kept_other = (sorted(t)[: max(1, len(t) * 3 // 4)] for t in (mine, other))
    if max(kept_mine) < min(kept_other):
        return "faster"
    return "slower" if min(kept_mine) > max(kept_other) else "no difference"


def row(out: int, width: int, tokens: int, times: dict[str, list[float]]) -> list[str]:
    base = times["onednn"]
    fields = [f"{out}x{width}", str(tokens), f"{1e6 * min(base):.1f}"]
    for name, mine in times.items():
        if name != "onednn":
            rate = out * width * tokens / min(mine) / 1e9
            fields += [
                name,
                f"{1e6 * min(mine):.1f}",
                f"{min(base) / min(mine):.2f}x {verdict(mine, base)}",
                f"{rate:.0f}",
            ]
    return fields


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 16, 128, 2048])
    parser.add_argument("--zeros", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"`python {' '.join(sys.argv)}`, {cpu()}, {options.threads} threads, {options.rounds} interleaved rounds, "
        f"torch {torch.__version__}, instruction set {ops.features()['isa']}. Times in us; GMAC/s count all weights.",
        "",
        "| layer (out x in) | tokens | oneDNN | ours | us | against oneDNN | GMAC/s | ... |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for out, width in SHAPES:
        for tokens in options.tokens:
            times = rounds_of(contenders(out, width, tokens, options.zeros), options.rounds)
            lines.append("| " + " | ".join(row(out, width, tokens, times)) + " |")
            print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
