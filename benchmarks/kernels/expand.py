"""Times weights stored as a bitmap and non-zeros beside dense torch of the same type and our dense kernels.

    python benchmarks/kernels/expand.py [--threads 2] [--shape 2048 2048] [--tokens 1] [--out table.md]

The check of `sparamx`: with one token and 2 threads, 2048x2048, at 70 % zeros faster than torch's dense product of the
same type, and the time falls from 50 to 90 % zeros. Ten copies of the weights take turns, so that they come from memory
as they do in a model, not from the second-level cache. Times are those of the fastest round.
"""

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from ceiling import cpu
from dense8 import Call, rounds_of

from rarefy import ops
from rarefy.core.quantized import quantize_weight

COPIES = 10
TYPES = (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32"), ("int8", "int8"))


def in_turn(calls: list[Callable[[], object]]) -> Call:
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def torch_dense(weight: torch.Tensor, x: torch.Tensor, stored: str) -> Call:
    if stored == "int8":
        q = quantize_weight(weight)
        zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        rows = torch.randint(0, 256, x.shape, dtype=torch.uint8)
        packed = [torch.ops.onednn.qlinear_prepack(q.values.clone(), list(x.shape)) for _ in range(COPIES)]
        call = torch.ops.onednn.qlinear_pointwise
        scales = q.scale.flatten()
        return in_turn(
            [
                lambda p=p: call(rows, 0.02, 120, p, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
                for p in packed
            ]
        )
    dtype = torch.bfloat16 if stored == "bf16" else torch.float32
    rows = x.to(dtype)
    copies = [weight.to(dtype).clone() for _ in range(COPIES)]
    return in_turn([lambda w=w: torch.nn.functional.linear(rows, w) for w in copies])


def ours(weight: torch.Tensor, x: torch.Tensor, name: str, stored: str) -> tuple[Call, float]:
    """The call, and the bytes of the layout over those of the dense weight in its type."""
    source = quantize_weight(weight) if stored == "int8" else weight
    copies = [ops.pack(source, name) for _ in range(COPIES)]
    dense = weight.numel() * {"fp32": 4, "bf16": 2, "int8": 1}[stored]
    return in_turn([lambda p=p: p.multiply(x, None, "none") for p in copies]), copies[0].nbytes / dense


def names(stored: str, activations: str) -> list[str]:
    usable = [k for k in ops.kernels() if (k.weights, k.activations) == (stored, activations)]
    best = {}
    for kernel in usable:  # the first of a family is the best one
        if kernel.op.startswith(("dense", "expand")):
            best.setdefault(kernel.op, kernel.name)
    return list(best.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shape", type=int, nargs=2, default=[2048, 2048])
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"`python {' '.join(sys.argv)}`, {cpu()}, {options.threads} threads, {options.rounds} interleaved rounds, "
        f"torch {torch.__version__}, instruction set {ops.features()['isa']}. {options.shape[0]}x{options.shape[1]}, "
        f"{options.tokens} tokens; microseconds, and bytes against dense.",
        "",
        "| weights | activations | zeros | torch dense | ours |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    x = torch.randn(options.tokens, options.shape[1])
    there = [types for types in TYPES if names(*types)]
    for (stored, activations), zeros in itertools.product(there, options.zeros):
        weight = torch.randn(*options.shape) * (torch.rand(*options.shape) >= zeros)
        calls, sizes = {"torch": torch_dense(weight, x, stored)}, {}
        for name in names(stored, activations):
            calls[name], sizes[name] = ours(weight, x, name, stored)
        times = {name: min(seconds) for name, seconds in rounds_of(calls, options.rounds).items()}
        mine = ", ".join(
            f"{name} {1e6 * times[name]:.0f} ({times['torch'] / times[name]:.2f}x; {sizes[name]:.2f} bytes)"
            for name in sizes
        )
        lines.append(f"| {stored} | {activations} | {zeros:.0%} | {1e6 * times['torch']:.0f} | {mine} |")
        print(lines[-1], flush=True)
    if options.out is not None:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
