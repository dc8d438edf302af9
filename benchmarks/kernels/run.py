"""Times the native kernels beside dense torch, torch's compressed rows and the plain loop; writes results.md.

    cmake -S . -B build -DRAREFY_BENCHMARK=ON && cmake --build build
    python benchmarks/kernels/run.py --build build [--threads 2] [--rounds 9] [--quick]

Every round calls every contender once, in an order that changes, so that a slow moment of the machine hits all alike.
A contender's time is its fastest round; "beats" is said only when its slowest kept round is faster than the other's
fastest, dropping the slowest quarter of the rounds of both.
"""

import argparse
import datetime
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from ceiling import cpu, multiply_adds, read_bandwidth
from plain import Plain

from rarefy import ops

SHAPES = ((3072, 768), (768, 3072), (384, 384), (1536, 384), (384, 1536))
SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
TOKENS = (1, 16, 128, 2048)


@dataclass(frozen=True)
class Cell:
    """One shape, sparsity and token count, and the seconds of every round of every contender."""

    out: int
    width: int
    sparsity: float
    tokens: int
    nnz: int
    seconds: dict[str, list[float]]

    def best(self, name: str) -> float:
        return min(self.seconds[name])

    def kept(self, name: str) -> list[float]:
        rounds = sorted(self.seconds[name])
        return rounds[: max(1, len(rounds) * 3 // 4)]

    def ours(self) -> str:
        """The fastest kernel of the library: what `compile` would choose."""
        return min((name for name in self.seconds if name.startswith("sp")), key=self.best)

    def verdict(self, other: str) -> str:
        mine, theirs = self.kept(self.ours()), self.kept(other)
        if max(mine) < min(theirs):
            return "faster"
        return "slower" if min(mine) > max(theirs) else "no difference"


def contenders(weight: torch.Tensor, x: torch.Tensor, library: Path | None) -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {"torch dense": lambda: torch.nn.functional.linear(x, weight)}
    if x.shape[0] <= 128:  # minutes otherwise
        rows = weight.to_sparse_csr()
        calls["torch csr"] = lambda: rows @ x.T
    if library is not None:
        plain = Plain(library, weight)
        calls["plain loop"] = lambda: plain(x)
    for name in ops.candidates(weight, x.shape[0]):
        packed = ops.pack(weight, name)
        calls[name] = lambda packed=packed: packed.multiply(x, None, "none")
    return calls


def measure(out: int, width: int, sparsity: float, tokens: int, library: Path | None, rounds: int) -> Cell:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(out, width, generator=generator) * (torch.rand(out, width, generator=generator) >= sparsity)
    x = torch.randn(tokens, width, generator=generator)
    calls = contenders(weight, x, library)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    repeats = 1 if tokens >= 128 else 5
    for round_number in range(rounds + 1):
        random.Random(round_number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            for _ in range(repeats):
                calls[name]()
            if round_number > 0:  # the first warms up
                seconds[name].append((time.perf_counter() - start) / repeats)
    return Cell(out, width, sparsity, tokens, int(weight.count_nonzero()), seconds)


HEADINGS = (
    "layer (out x in)", "zeros", "tokens", "ours", "median", "kernel", "torch dense", "ratio", "torch csr", "ratio",
    "plain loop", "ratio", "GFLOP/s", "share",
)  # fmt: skip
HEAD = """# Kernels side by side

`python {command}`, {date}, {cpu}, {threads} threads, {rounds} interleaved rounds, torch {torch}, instruction set {isa}.

Times in ms: the fastest round (and the median of ours). Ours is the fastest kernel of the library; a ratio is
the other's time over ours. GFLOP/s count the multiply-adds on non-zeros; the share is of torch's dense product on
this machine, {peak:.0f} GFLOP/s. Reading memory: {bandwidth:.1f} GB/s.

"""


def table_line(fields: Iterable[str]) -> str:
    return "| " + " | ".join(fields) + " |"


def beside(cell: Cell, name: str) -> list[str]:
    if name not in cell.seconds:
        return ["-", "-"]
    return [f"{1e3 * cell.best(name):.3f}", f"{cell.best(name) / cell.best(cell.ours()):.2f}x {cell.verdict(name)}"]


def row(cell: Cell, peak: float) -> str:
    ours = cell.ours()
    best, median = cell.best(ours), sorted(cell.seconds[ours])[len(cell.seconds[ours]) // 2]
    flops = 2 * cell.nnz * cell.tokens / best / 1e9
    what = [
        f"{cell.out}x{cell.width}",
        f"{cell.sparsity:.0%}",
        str(cell.tokens),
        f"{1e3 * best:.3f}",
        f"{1e3 * median:.3f}",
        ours,
    ]
    others = [field for name in ("torch dense", "torch csr", "plain loop") for field in beside(cell, name)]
    return table_line([*what, *others, f"{flops:.0f}", f"{flops / peak:.0%}"])


def report(cells: list[Cell], peak: float, threads: int, rounds: int) -> str:
    head = HEAD.format(
        command=" ".join(sys.argv), date=datetime.date.today(), cpu=cpu(), threads=threads, rounds=rounds,
        torch=torch.__version__, isa=ops.features()["isa"], peak=peak, bandwidth=read_bandwidth(),
    )  # fmt: skip
    lines = [table_line(HEADINGS), table_line(["---"] * len(HEADINGS)), *(row(cell, peak) for cell in cells)]
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, default=Path("build"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="the demo's layers only, at 70 % zeros")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    library = next(iter(options.build.glob("libplain_loop.so")), None)
    if library is None:
        print(
            f"no plain loop in {options.build}: configure with -DRAREFY_BENCHMARK=ON to have it timed too",
            file=sys.stderr,
        )
    shapes, sparsities = (SHAPES[2:], (0.7,)) if options.quick else (SHAPES, SPARSITIES)
    cells, peak = [], multiply_adds()
    for out, width in shapes:
        for tokens in TOKENS:
            for sparsity in sparsities:
                cells.append(measure(out, width, sparsity, tokens, library, options.rounds))
                print(row(cells[-1], peak), flush=True)
    options.out.write_text(report(cells, peak, options.threads, options.rounds))


if __name__ == "__main__":
    main()
