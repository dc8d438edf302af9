"""Decoding one text on a Llama-shaped model: milliseconds a token, bytes over time, and where the time goes.

    OMP_NUM_THREADS=2 python benchmarks/decode/run.py --weights int8 bf16 fp32 --sparsity 0.5

A token reads every packed weight once and the cached keys and values; the share is of the read bandwidth measured
between the rounds. "rest" is what is not a product with a weight: attention, norms, rotary embedding, gate, sampling,
Python. Times of kernels come from the disk (`rarefy cache`) where they are known: run twice for an undisturbed table.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

import rarefy

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kernels")]
from ceiling import cpu, read_bandwidth  # noqa: E402
from model import llama  # noqa: E402

PRODUCTS = ("qkv", "out", "up", "down", "head")
HEADER = (
    "| weights | activations | MB a token | ms a token | GB/s | read GB/s | share | rest | attention ms | norms ms |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def measure(fast: Any, prompt: int, new: int, rounds: int) -> tuple[float, float]:
    """(seconds a token: the median over rounds of each round's median, GB/s of reading memory between the rounds)."""
    ids = torch.randint(0, fast.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    tokens, bandwidth = [], []
    for _ in range(rounds):
        bandwidth.append(read_bandwidth())
        fast.generate(ids, max_new_tokens=new, do_sample=False, eos_token_id=-1)
        tokens.append(median(fast.last.tokens))
    return median(tokens), max(bandwidth)


def row(model: Any, weights: str, activations: str, args: argparse.Namespace) -> str:
    start = time.perf_counter()
    example = {"input_ids": torch.zeros(1, args.prompt, dtype=torch.int64)}
    fast = rarefy.compile(model, example, weights=weights, activations=activations)
    print(f"{weights}/{activations}: compiled in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    for line in fast.explain().rows[:4]:
        print(f"  {line.name}: {line.kernel} at {line.tokens}", file=sys.stderr)
    seconds, bandwidth = measure(fast, args.prompt, args.new, args.rounds)
    parts = fast.profile(past=args.prompt + args.new // 2, steps=25)
    first = {id(chosen.at(1)): chosen.at(1).nbytes for chosen in fast._runner.plan.all()}
    past = fast.cache(1, args.prompt + args.new // 2).nbytes
    moved = (sum(first.values()) + past) / 1e6
    rest = 1 - sum(parts[name] for name in PRODUCTS) / parts["whole"]
    rate = moved / 1e3 / seconds
    return (
        f"| {weights} | {activations} | {moved:.0f} | {seconds * 1e3:.2f} | {rate:.1f} | {bandwidth:.1f} | "
        f"{rate / bandwidth:.0%} | {rest:.1%} | {parts['attention']:.2f} | {parts['norms']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", nargs="+", default=["fp32", "bf16", "int8"])
    parser.add_argument("--activations", default="fp32")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    model = llama(args.sparsity)
    print(
        f"{cpu()}, {torch.get_num_threads()} threads, {args.sparsity:.0%} zeros in the blocks, head dense\n\n{HEADER}"
    )
    for weights in args.weights:
        print(row(model, weights, args.activations, args), flush=True)


if __name__ == "__main__":
    main()
