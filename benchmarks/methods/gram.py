"""Gram accumulation as a share of what torch's own product reaches at the same size and type; prints a table.

    python benchmarks/methods/gram.py [--rounds 7]

The peak is torch.mm of (n, tokens) by (tokens, n) into memory that is there already, 2 n^2 tokens operations; the share
counts the same operations for a Gram matrix, which needs little more than half of them. The published SparseGPT's way,
a product and a sum a batch, stands beside it. Rounds are interleaved, the fastest counts.
"""

import argparse
import math
import sys

import torch
from layers import measure
from torch import Tensor

from rarefy.calibration.accumulator import Accumulators
from rarefy.core.evidence import Need

CASES = ((384, 256, 16), (768, 256, 16), (1536, 256, 16), (3072, 256, 16), (3072, 2048, 4), (8192, 256, 4))


def ours(samples: list[Tensor]) -> object:
    sums = Accumulators(["layer"], [Need.INPUT_GRAM])
    for x in samples:
        sums.add("layer", x[:, None])
    return sums.take("layer", 1)


def a_product_a_batch(samples: list[Tensor]) -> Tensor:
    total = torch.zeros(samples[0].shape[1], samples[0].shape[1])
    for seen, x in enumerate(samples):
        total *= seen / (seen + 1)
        rows = math.sqrt(2 / (seen + 1)) * x.t()
        total += rows @ rows.t()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| inputs | batches x tokens | peak GFLOP/s | ours | share | a product a batch |\n|---|---|---|---|---|---|")
    for n, tokens, batches in CASES:
        samples = [torch.randn(tokens, n) for _ in range(batches)]
        whole, same, into = torch.cat(samples), torch.cat(samples), torch.empty(n, n)
        calls = {
            "peak": lambda a=whole, b=same, into=into: torch.mm(a.t(), b, out=into),
            "ours": lambda samples=samples: ours(samples),
            "plain": lambda samples=samples: a_product_a_batch(samples),
        }
        for call in calls.values():
            call()
        seconds = {name: min(times) for name, times in measure(calls, rounds if n < 4096 else 2).items()}
        rate = {name: 2 * n * n * tokens * batches / found / 1e9 for name, found in seconds.items()}
        share, plain = rate["ours"] / rate["peak"], rate["plain"] / rate["peak"]
        print(
            f"| {n} | {batches} x {tokens} | {rate['peak']:.0f} | {rate['ours']:.0f} | {share:.0%} | {plain:.0%} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
