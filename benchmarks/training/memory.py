"""Memory of training with Adam: weights, gradients, optimizer state and the sparse index, 95 % zeros against dense.

Counted from the tensors that exist after the steps; the most bytes of tensors and indexes that were alive at a time
during the steps, in a process of its own (`live.py`); and the peak of another process above what it held before the
model was made, which also has what the C library keeps of freed memory. Of sparse layers that are made of their support
alone, and of RigL through the trainer with its exchange of weights, which begins with a dense model (that apart).
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from live import Live
from sides import Target, options, page, table
from torch import nn

import rarefy
from rarefy.training.runtime import SparseLinear, SparseModule, Topology
from rarefy.training.trainer import SparseTrainer

WIDTHS, SPARSITY, TOKENS = (4096,) * 5, 0.95, 16
KINDS = {"dense": "dense layers", "sparse": "sparse layers", "trainer": "RigL through the trainer"}
PARTS = (  # what, its key, beside which of dense training
    ("held", "held", "held"),
    ("peak of the steps, alive", "live", "live"),
    ("peak of the steps, resident", "peak", "peak"),
    ("peak while it begins", "beginning", "peak"),
)


def sparse_layer(width: int, seed: int) -> SparseLinear:
    """Made of its support alone: no dense weight is ever there."""
    generator = torch.Generator().manual_seed(seed)
    return SparseLinear(width, width, Topology(torch.rand(width, width, generator=generator) >= SPARSITY), bias=False)


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients, optimizer state and indexes."""
    sizes = [p.nbytes + (0 if p.grad is None else p.grad.nbytes) for p in model.parameters()]
    states = [t.nbytes for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    sparse = [m.topology for m in model.modules() if isinstance(m, SparseModule)]
    sparse += [m.packing.topology for m in model.modules() if hasattr(m, "packing")]
    return sum(sizes) + sum(states) + sum(topology.nbytes for topology in sparse)


def peak() -> int:
    """Of resident bytes since `again`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def again() -> None:
    """The peak is what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def dense_layers(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(count)))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-4, foreach=False)


def rigl(model: nn.Module, optimizer: torch.optim.Optimizer) -> SparseTrainer:
    options = {"allocation": "uniform", "total_steps": 100, "every": 2}
    return rarefy.sparse_training(model, optimizer, "rigl", sparsity=SPARSITY, runtime="sparse", **options)


def steps(model: nn.Module, width: int, count: int, step: Callable[[], object]) -> None:
    for _ in range(count):
        model.zero_grad()
        model(torch.randn(TOKENS, width)).square().mean().backward()
        step()


def made(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    width, count = WIDTHS[0], len(WIDTHS) - 1
    sparse = (sparse_layer(width, i) for i in range(count))
    model = nn.Sequential(*sparse) if kind == "sparse" else dense_layers(width, count)
    return model, adam(model)


def counted(kind: str) -> None:
    """Prints the most bytes that were alive during the steps."""
    with Live() as live:
        model, optimizer = made(kind)
        step: Callable[[], object] = rigl(model, optimizer).step if kind == "trainer" else optimizer.step
        begun = time.time_ns()
        steps(model, WIDTHS[0], 6, step)
    print(json.dumps({"live": live.peak(begun)}))


def child(kind: str) -> None:
    """Prints bytes: held, the resident peak of the steps, and that of the beginning."""
    small = dense_layers(64, 2)  # what is loaded at first steps counts for nothing
    steps(small, 64, 4, rigl(small, adam(small)).step)
    sparse_layer(64, 0)(torch.ones(16, 64)).sum().backward()
    again()
    before, begun = peak(), 0
    model, optimizer = made(kind)
    step: Callable[[], object] = optimizer.step
    if kind == "trainer":
        step, begun = rigl(model, optimizer).step, peak() - before
        again()
    steps(model, WIDTHS[0], 6, step)
    print(json.dumps({"held": held(model, optimizer), "peak": peak() - before, "beginning": begun}))


def asked_of(*what: str) -> dict[str, int]:
    """What a process of its own prints."""
    ran = subprocess.run([sys.executable, __file__, *what], capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    asked = options(__doc__)
    told = {}
    for kind in KINDS:
        told[kind] = asked_of(kind) | asked_of(kind, "counted")
    whole = told["dense"]
    rows = [
        [KINDS[kind], what, told[kind][key] / 2**20, told[kind][key] / whole[against]]
        for kind in KINDS
        for what, key, against in PARTS
        if told[kind][key]
    ]
    head = ["training", "what", "MiB", "share of dense"]
    body = f"{len(WIDTHS) - 1} layers of {WIDTHS[0]} x {WIDTHS[0]}, Adam, {TOKENS} tokens.\n\n" + table(head, rows)
    wanted = 1 / 0.12
    targets = [
        Target(
            f"dense over {KINDS[kind]}, {key} (a share of 12 % is {wanted:.2f})", wanted, whole[key] / told[kind][key]
        )
        for kind in ("sparse", "trainer")
        for key in ("held", "live", "peak")
    ]
    page("memory", "Memory of sparse training", body, targets, {}, asked)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in KINDS:
        (counted if "counted" in sys.argv else child)(sys.argv[1])
    else:
        main()
