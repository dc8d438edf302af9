"""Memory of training with Adam: weights, gradients, optimizer state and the sparse index, 95 % zeros against dense.

Counted from the tensors that exist after two steps, and the peak of a process of its own above what it held before the
model was made.
"""

import json
import resource
import subprocess
import sys
from itertools import pairwise

import torch
from sides import Target, options, page, table
from torch import nn

from rarefy.training.runtime import SparseLinear, SparseModule, Topology

WIDTHS, SPARSITY, TOKENS = (4096,) * 5, 0.95, 16


def sparse_layer(width: int, seed: int) -> SparseLinear:
    """Made of its support alone: no dense weight is ever there."""
    generator = torch.Generator().manual_seed(seed)
    return SparseLinear(width, width, Topology(torch.rand(width, width, generator=generator) >= SPARSITY), bias=False)


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients, optimizer state and indexes."""
    sizes = [p.nbytes + (0 if p.grad is None else p.grad.nbytes) for p in model.parameters()]
    states = [t.nbytes for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    return sum(sizes) + sum(states) + sum(m.topology.nbytes for m in model.modules() if isinstance(m, SparseModule))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(kind: str) -> None:
    nn.Linear(64, 64)(torch.ones(16, 64)).sum().backward()  # what torch loads at its first steps counts for nothing
    sparse_layer(64, 0)(torch.ones(16, 64)).sum().backward()
    before = peak()
    pairs = list(pairwise(WIDTHS))
    made = [nn.Linear(a, b, bias=False) if kind == "dense" else sparse_layer(b, i) for i, (a, b) in enumerate(pairs)]
    model = nn.Sequential(*made)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, foreach=False)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(TOKENS, WIDTHS[0])).square().mean().backward()
        optimizer.step()
    print(json.dumps({"held": held(model, optimizer), "peak": peak() - before}))


def main() -> None:
    asked = options(__doc__)
    told = {}
    for kind in ("dense", "sparse"):
        ran = subprocess.run([sys.executable, __file__, kind], capture_output=True, text=True, check=True)
        told[kind] = json.loads(ran.stdout.splitlines()[-1])
    rows = [
        [name, *(told[k][name] / 2**20 for k in told), told["sparse"][name] / told["dense"][name]]
        for name in ("held", "peak")
    ]
    head = ["what", "dense MiB", "sparse MiB", "share"]
    body = f"{len(WIDTHS) - 1} layers of {WIDTHS[0]} x {WIDTHS[0]}, Adam, {TOKENS} tokens.\n\n" + table(head, rows)
    saved = told["dense"]["held"] / told["sparse"]["held"], told["dense"]["peak"] / told["sparse"]["peak"]
    wanted = 1 / 0.12
    targets = [
        Target(f"dense over sparse, {n} (a share of 12 % is {wanted:.2f})", wanted, got)
        for n, got in zip(("held", "peak"), saved, strict=True)
    ]
    page("memory", "Memory of sparse training", body, targets, {}, asked)


if __name__ == "__main__":
    child(sys.argv[1]) if sys.argv[1:] in (["dense"], ["sparse"]) else main()
