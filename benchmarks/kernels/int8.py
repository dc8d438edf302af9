"""Times the 8-bit kernels beside oneDNN's dense 8-bit product and our float32 kernels; writes int8.md.

    cmake -S . -B build -DRAREFY_BENCHMARK=ON && cmake --build build
    python benchmarks/kernels/int8.py --build build [--threads 1] [--rounds 7] [--quick] [--amx]

Every contender takes 8-bit rows that are there already, with one scale, and gives new floats; "from floats" is ours
with the rounding of float rows, each by its own scale, included. Without --amx oneDNN is held to AVX-512 with VNNI, so
that like is compared with like. Rounds are interleaved in an order that changes; a time is the fastest round.
"""

import argparse
import ctypes
import datetime
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if "--amx" not in sys.argv:
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"  # read when torch first uses oneDNN

import torch
from ceiling import cpu
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import QuantizedWeight, quantize_weight

SHAPES = ((384, 384), (1536, 384), (384, 1536), (3072, 768), (768, 3072))
TOKENS = (128, 2048)
MASKS = (("1x1", 0.8), ("1x1", 0.9), ("1x4", 0.8), ("4x1", 0.8), ("4x1", 0.9), ("16x1", 0.8))
INPUT = (8 / 255, 128)  # scale and zero point of normal inputs
DENSE = "oneDNN dense"


@dataclass(frozen=True)
class Cell:
    """Seconds of the fastest round of every contender for one layer."""

    out: int
    width: int
    tokens: int
    mask: str
    sparsity: float
    nnz: int
    seconds: dict[str, float]

    def ours(self) -> str:
        return min((n for n in self.seconds if n.startswith("block8") and " " not in n), key=self.seconds.__getitem__)


def masked(out: int, width: int, mask: str, sparsity: float) -> Tensor:
    """Normal weights (out, width), kept in whole blocks."""
    rows, columns = map(int, mask.split("x"))
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(out // rows, width // columns, generator=generator) >= sparsity
    weight = torch.randn(out, width, generator=generator)
    return weight * keep.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def dense(weight: Tensor, values: Tensor) -> Callable[[], object]:
    """oneDNN's product of the weight, all of it, as torch calls it."""
    codes = quantize_weight(weight)
    packed = torch.ops.onednn.qlinear_prepack(codes.values, None)
    scale, zero = codes.scale.flatten(), torch.zeros(weight.shape[0], dtype=torch.int64)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        values, *INPUT, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )


def on_bytes(name: str, weight: QuantizedWeight, values: Tensor) -> Callable[[], object]:
    packed = ops.pack(weight, name)
    scale, zero = torch.tensor([INPUT[0]]), torch.tensor([INPUT[1]], dtype=torch.int32)

    def call() -> None:
        y = torch.empty(values.shape[0], weight.shape[0])  # at every call, as the others
        packed.layout.multiply8(
            values.data_ptr(), values.shape[0], scale.data_ptr(), zero.data_ptr(), 0, 0, 0, y.data_ptr(), 0.0, 0, 0,
            torch.get_num_threads(),
        )  # fmt: skip

    return call


def on_floats(name: str, weight: Tensor | QuantizedWeight, x: Tensor) -> Callable[[], object]:
    packed = ops.pack(weight, name)
    return lambda: packed.multiply(x, None, "none")


def contenders(weight: Tensor, x: Tensor) -> dict[str, Callable[[], object]]:
    values = ((x / INPUT[0]).round() + INPUT[1]).clamp(0, 255).to(torch.uint8)
    codes = quantize_weight(weight)
    calls = {DENSE: dense(torch.randn(weight.shape), values)}
    names = [n for n in ops.candidates(codes, x.shape[0], "int8", "int8") if n.startswith("block8")]
    for name in names:
        calls[name] = on_bytes(name, codes, values)
    calls[f"{names[0]} from floats"] = on_floats(names[0], codes, x)
    for name in ops.candidates(weight, x.shape[0])[:2]:
        calls[name] = on_floats(name, weight, x)
    return calls


def measure(out: int, width: int, tokens: int, mask: str, sparsity: float, rounds: int) -> Cell:
    weight = masked(out, width, mask, sparsity)
    calls = contenders(weight, torch.randn(tokens, width, generator=torch.Generator().manual_seed(1)))
    best, order = dict.fromkeys(calls, float("inf")), list(calls)
    repeats = max(1, 1024 // tokens)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            if number > 0:  # the first warms up
                best[name] = min(best[name], (time.perf_counter() - start) / repeats)
    return Cell(out, width, tokens, mask, sparsity, int(weight.count_nonzero()), best)


def peak(library: Path) -> float:
    """8-bit multiply-adds a second that one core does on registers."""
    products = ctypes.CDLL(str(library)).vnni_products
    products.restype, products.argtypes = ctypes.c_int64, [ctypes.c_int64]
    best = 0.0
    for _ in range(9):
        start = time.perf_counter()
        best = max(best, products(100_000) / (time.perf_counter() - start))
    return best


HEAD = """# 8-bit kernels side by side

`python {command}`, {date}, {cpu}, {threads} threads, {rounds} interleaved rounds, torch {torch}, oneDNN {capped}.

Times in ms, the fastest round; a ratio is the other's time over ours. GMAC/s count the multiply-adds on kept weights;
the share is of the measured peak of 8-bit dot products, {peak:.0f} GMAC/s a core. All take bytes and give floats, but
the columns "fp32 sparse" and "from floats".

{headings}
"""

HEADINGS = (
    "layer (out x in)", "tokens", "mask", "zeros", "ours", "kernel", "GMAC/s", "share", "oneDNN dense", "ratio",
    "fp32 sparse", "ratio", "from floats",
)  # fmt: skip


def table_line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"


def row(cell: Cell, most: float) -> str:
    ours = cell.ours()
    seconds = cell.seconds[ours]
    rate = cell.nnz * cell.tokens / seconds
    fp32 = min(t for n, t in cell.seconds.items() if n.startswith("sp"))
    floats = next(t for n, t in cell.seconds.items() if n.endswith("from floats"))
    other = cell.seconds[DENSE]
    fields = [
        f"{cell.out}x{cell.width}", str(cell.tokens), cell.mask, f"{cell.sparsity:.0%}", f"{1e3 * seconds:.3f}", ours,
        f"{rate / 1e9:.0f}", f"{rate / most:.0%}", f"{1e3 * other:.3f}", f"{other / seconds:.2f}x", f"{1e3 * fp32:.3f}",
        f"{fp32 / seconds:.2f}x", f"{1e3 * floats:.3f}",
    ]  # fmt: skip
    return table_line(fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="MiniLM's layers only")
    parser.add_argument("--amx", action="store_true", help="let oneDNN use AMX")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("int8.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = options.build / "libplain_loop.so"
    if not library.exists():
        sys.exit(f"{library}, which measures the peak, is not there: configure with -DRAREFY_BENCHMARK=ON and build")
    most = peak(library) * options.threads
    lines = []
    for tokens in TOKENS:
        for out, width in SHAPES[:3] if options.quick else SHAPES:
            for mask, sparsity in MASKS:
                lines.append(row(measure(out, width, tokens, mask, sparsity, options.rounds), most))
                print(lines[-1], flush=True)
    head = HEAD.format(
        command=" ".join(["benchmarks/kernels/int8.py", *sys.argv[1:]]), date=datetime.date.today(), cpu=cpu(),
        threads=options.threads, rounds=options.rounds, torch=torch.__version__,
        capped="with AMX where there is" if options.amx else "held to AVX-512 with VNNI",
        peak=most / options.threads / 1e9,
        headings="\n".join([table_line(HEADINGS), table_line(["---"] * len(HEADINGS))]),
    )  # fmt: skip
    options.out.write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
