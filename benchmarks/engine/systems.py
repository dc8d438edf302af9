"""What the catalogued systems must be faster than, on this machine: the part of their checks that a clock reads.

    python benchmarks/engine/systems.py [fast-sparse-convnets] [intel-sparse-vnni] [sparamx]

Writes systems.md beside this file, a section for each system named. `intel-sparse-vnni` runs in a process of its own
with RAREFY_ISA=vnni and ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI, so that neither side may use AMX.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from rarefy import ops
from rarefy.core.quantized import quantize_weight
from rarefy.engine.cpu import cpu_name
from rarefy.engine.systems.fast_sparse_convnets import FastSparseConv, block_weight, break_even
from rarefy.engine.systems.intel_sparse_vnni import SparseVnni
from rarefy.engine.systems.sparamx import SparAMX
from rarefy.engine.timing import Rounds, interleaved

HERE = Path(__file__).parent
COMMAND = "benchmarks/engine/systems.py"
NO_AMX = {"RAREFY_ISA": "vnni", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}
ROUNDS = 21
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)


def timed(calls: dict[str, Callable[[], object]]) -> Rounds:
    with torch.inference_mode():
        return interleaved(calls, rounds=ROUNDS, warmup=3, seconds=1.0)


def verdict(text: str, wanted: float, got: float) -> str:
    return f"- {'met' if got >= wanted else 'MISSED'}: {text}: wanted {wanted:g}, got {got:.2f}"


def convnets() -> list[str]:
    """512 x 512 channels, 14 x 14 pixels, one thread: blocks of 4, single channels, torch dense and masked."""
    image = (1, 14, 14)
    x = torch.randn(image[0], 512, *image[1:])
    lines = [
        "| zeros | torch dense ms | masked | block 1 | block 4 | dense / block 1 | dense / block 4 |",
        "|---" * 7 + "|",
    ]
    found: dict[float, Rounds] = {}
    for sparsity in (*SPARSITIES, 0.95):
        weight = block_weight((512, 512), sparsity, 4)
        full = torch.randn_like(weight)
        mask = (weight != 0).float()
        calls: dict[str, Callable[[], object]] = {
            "dense": partial(F.conv2d, x, full),
            "masked": lambda full=full, mask=mask: F.conv2d(x, full * mask),  # type: ignore[misc]
        }
        for block in (1, 4):
            calls[str(block)] = partial(FastSparseConv(block).pack_conv(weight).convolve, x, None, None, "none")
        rounds = found[sparsity] = timed(calls)
        ms = " | ".join(f"{rounds.median(name):.3f}" for name in calls)
        lines.append(f"| {sparsity:.0%} | {ms} | {rounds.ratio('1', 'dense'):.2f} | {rounds.ratio('4', 'dense'):.2f} |")
    even = {block: break_even((512, 512), image, block) for block in (1, 4)}
    said = ", ".join(f"block {b}: {'none' if s is None else f'{s:.0%}'}" for b, s in even.items())
    return [
        "512 x 512 channels, 14 x 14 pixels (196), fp32, one thread.", "", *lines, "",
        f"Break-even sparsity (from where on it is faster than torch's dense): {said}.",
        verdict("90 % zeros, blocks of 4 against torch's dense 1x1 convolution", 1.0, found[0.9].ratio("4", "dense")),
        verdict("90 % zeros, blocks of 4 against single channels at equal non-zeros", 1.0, found[0.9].ratio("4", "1")),
        verdict("a dense convolution behind a mask gains nothing", 1.0, found[0.9].ratio("dense", "masked")),
    ]  # fmt: skip


def onednn(weight: torch.Tensor) -> nn.Module:
    """torch's dense int8 linear layer by oneDNN, with 8-bit inputs of a scale for each call."""
    torch.backends.quantized.engine = "onednn"
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    made: nn.Module = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, torch.qint8)
    return made


def vnni() -> list[str]:
    """1024 x 1024, one thread, 128 tokens."""
    tokens, size = 128, 1024
    x = torch.randn(tokens, size)
    lines = [
        "| zeros | oneDNN int8 ms | 4x1 blocks | scalar sparse | dense / blocks | scalar / blocks |",
        "|---" * 6 + "|",
    ]
    found: dict[float, Rounds] = {}
    for sparsity in (0.0, 0.7, 0.8, 0.9):
        weight = block_weight((size, size), sparsity, 4)[:, :, 0, 0]
        stored = quantize_weight(weight, 8)
        ours, scalar = SparseVnni().pack(stored), ops.pack(stored, "block8-scalar-cell-r2-t16-k256")
        rounds = found[sparsity] = timed({
            "dense": partial(onednn(weight), x),
            "blocks": partial(ours.multiply, x, None, "none"),
            "scalar": partial(scalar.multiply, x, None, "none"),
        })  # fmt: skip
        ms = " | ".join(f"{rounds.median(name):.3f}" for name in ("dense", "blocks", "scalar"))
        ratios = " | ".join(f"{rounds.ratio('blocks', name):.2f}" for name in ("dense", "scalar"))
        lines.append(f"| {sparsity:.0%} | {ms} | {ratios} |")
    times = [found[s].median("blocks") for s in (0.0, 0.7, 0.8, 0.9)]
    falls = min(a / b for a, b in pairwise(times))
    return [
        f"{size} x {size} weights, {tokens} tokens, one thread, {ours.kernel}.",
        "RAREFY_ISA=vnni, ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI. Both take float32 inputs and round them at the call:",
        "oneDNN with one scale for all, ours with a scale a token.",
        "", *lines, "",
        verdict("90 % zeros against oneDNN's dense int8", 2.0, found[0.9].ratio("blocks", "dense")),
        verdict("90 % zeros against a scalar sparse kernel", 1.0, found[0.9].ratio("blocks", "scalar")),
        verdict("time falls with sparsity, least step of 0, 70, 80, 90 %", 1.0, falls),
    ]  # fmt: skip


def sparamx() -> list[str]:
    """2048 x 2048, one token, two threads."""
    size = 2048
    x = torch.randn(1, size)
    said = f"{size} x {size} weights, one token, {torch.get_num_threads()} threads"
    out = [f"{said}; streams are `tokens=1`, tiles `tokens=32`.", ""]
    for weights, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        lines = ["| zeros | torch dense ms | streams | tiles | dense / streams | dense / tiles |", "|---" * 6 + "|"]
        found: dict[float, Rounds] = {}
        for sparsity in SPARSITIES:
            weight = torch.randn(size, size) * (torch.rand(size, size) >= sparsity)
            packs = {name: SparAMX(weights, tokens).pack(weight) for name, tokens in (("streams", 1), ("tiles", 32))}
            calls: dict[str, Callable[[], object]] = {"dense": partial(F.linear, x.to(dtype), weight.to(dtype))}
            calls |= {name: partial(packed.multiply, x, None, "none") for name, packed in packs.items()}
            rounds = found[sparsity] = timed(calls)
            ms = " | ".join(f"{rounds.median(name):.3f}" for name in calls)
            ratios = " | ".join(f"{rounds.ratio(name, 'dense'):.2f}" for name in packs)
            lines.append(f"| {sparsity:.0%} | {ms} | {ratios} |")
        names = ", ".join(f"{name}: {packed.kernel}" for name, packed in packs.items())
        times = [found[s].median("streams") for s in SPARSITIES]
        falls = min(a / b for a, b in pairwise(times))
        out += [
            f"{weights} ({names}):", "", *lines, "",
            verdict(f"{weights}, 70 % zeros against torch's dense", 1.0, found[0.7].ratio("streams", "dense")),
            verdict(f"{weights}, time falls from 50 to 90 %, least step", 1.0, falls), "",
        ]  # fmt: skip
    return out[:-1]


SYSTEMS = {"fast-sparse-convnets": (convnets, 1), "intel-sparse-vnni": (vnni, 1), "sparamx": (sparamx, 2)}


def section(name: str) -> str:
    run, threads = SYSTEMS[name]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return "\n".join([f"## {name}", "", *run(), ""])


def main(names: list[str]) -> None:
    page = HERE / "systems.md"
    for name in names:
        if name == "intel-sparse-vnni" and os.environ.get("RAREFY_ISA") != "vnni":
            subprocess.run([sys.executable, __file__, name], check=True, env={**os.environ, **NO_AMX})
            continue
        old = page.read_text("utf-8").split("\n## ")[1:] if page.exists() else []
        parts = {part.split("\n", 1)[0]: f"## {part.rstrip()}\n" for part in old}
        parts[name] = section(name)
        print(parts[name])
        head = (
            f"# Catalogued systems: the timed part of their checks\n\n{cpu_name()}. `python {COMMAND}` writes it.\n\n"
        )
        page.write_text(head + "\n".join(parts[name] for name in SYSTEMS if name in parts), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SYSTEMS))
