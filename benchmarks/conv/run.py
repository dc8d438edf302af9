"""Convolutions beside torch's: every layer shape of ResNet-18 (the whole model: benchmarks/engine/resnet18.py).

    OMP_NUM_THREADS=2 python benchmarks/conv/run.py [--batches 1,16] [--sparsity 0.95] [--layers] [--blocks]

Rounds are interleaved and ratios are taken round by round.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.engine.timing import interleaved
from rarefy.ops import Window, conv_candidates, pack_conv
from rarefy.ops.conv_across import convolve_across, lanes, to_across
from rarefy.ops.conv_kernels import kernels
from rarefy.ops.native import LEVELS

# channels in and out, kernel, stride, height of the input, how many such layers
LAYERS = (
    (64, 64, 3, 1, 56, 4),
    (64, 128, 3, 2, 56, 1),
    (64, 128, 1, 2, 56, 1),
    (128, 128, 3, 1, 28, 3),
    (128, 256, 3, 2, 28, 1),
    (256, 256, 3, 1, 14, 3),
    (256, 512, 3, 2, 14, 1),
    (512, 512, 3, 1, 7, 3),
)


def sparse(out: int, into: int, kernel: int, sparsity: float, block: int = 1) -> Tensor:
    """A random weight; non-zeros come in blocks of `block` output channels."""
    keep = torch.rand(out // block, into, kernel, kernel) >= sparsity
    return torch.randn(out, into, kernel, kernel) * keep.repeat_interleave(block, 0)


def layer_table(batch: int, sparsity: float) -> None:
    print(f"\n| layer, batch {batch} | torch ms | images side by side | across lanes | best: times torch | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    for into, out, size, stride, image, _ in LAYERS:
        weight, x = sparse(out, into, size, sparsity), torch.randn(batch, into, image, image)
        window = Window((stride, stride), (size // 2, size // 2))
        calls: dict[str, Callable[[], Any]] = {"torch": partial(F.conv2d, x, weight, None, stride, size // 2)}
        for name in conv_candidates(weight):
            calls[name] = partial(pack_conv(weight, window, name).convolve, x, None, None, "none")
            if 2 * batch >= lanes():
                packed = pack_conv(weight, window, name, across=True)
                calls[f"across {name}"] = partial(convolve_across, packed, to_across(x), None, None, "none")
        with torch.inference_mode():
            rounds = interleaved(calls, rounds=9)
        side = min((n for n in calls if n.startswith("conv")), key=rounds.median)
        across = min((n for n in calls if n.startswith("across")), key=rounds.median, default=side)
        best = min(side, across, key=rounds.median)
        high, wide = window.out_size((image, image), (size, size))
        rate = 2e-6 * batch * high * wide * int(weight.count_nonzero()) / rounds.median(best)
        other = f"{rounds.median(across):.3f}" if across != side else "-"
        print(
            f"| {into}-{out} {size}x{size} stride {stride}, {image}x{image} | {rounds.median('torch'):.3f} | "
            f"{rounds.median(side):.3f} | {other} | {rounds.ratio(best, 'torch'):.1f} | {rate:.0f} |"
        )


def block_table() -> None:
    """`fast-sparse-convnets`, `sparsebytenn`: blocks of output channels that share an input, at equal non-zeros."""
    print("\n| 1x1, 512-512, 14x14, one image | dense torch ms | apart | blocks of 2 | blocks of 4 |")
    print("|---|---|---|---|---|")
    x = torch.randn(1, 512, 14, 14)
    best = max((k.isa for k in kernels()), key=LEVELS.index)
    for sparsity in (0.5, 0.7, 0.8, 0.9, 0.95):
        calls: dict[str, Callable[[], Any]] = {}
        for block in (1, 2, 4):
            weight = sparse(512, 512, 1, sparsity, block)
            fitting = [k for k in kernels() if k.isa == best and (k.rows == block if k.together else block == 1)]
            for k in fitting:
                calls[f"{block} {k.name}"] = partial(pack_conv(weight, kernel=k.name).convolve, x, None, None, "none")
        calls["torch"] = partial(F.conv2d, x, weight)
        with torch.inference_mode():
            rounds = interleaved(calls, rounds=15)
        cells = [min(rounds.median(n) for n in calls if n.startswith(f"{block} ")) for block in (1, 2, 4)]
        print(
            f"| {sparsity:.0%} zeros | {rounds.median('torch'):.3f} | " + " | ".join(f"{ms:.3f}" for ms in cells) + " |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--sparsity", type=float, default=0.95)
    for part in ("layers", "blocks"):
        parser.add_argument(f"--{part}", action="store_true")
    options = parser.parse_args()
    everything = not (options.layers or options.blocks)
    batches = [int(b) for b in options.batches.split(",")]
    torch.manual_seed(0)
    if options.layers or everything:
        for batch in batches:
            layer_table(batch, options.sparsity)
    if options.blocks or everything:
        block_table()


if __name__ == "__main__":
    main()
