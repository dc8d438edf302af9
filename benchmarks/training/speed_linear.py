"""Forward and backward of stacks of sparse linear layers beside dense torch and SparseProp."""

from itertools import pairwise

import torch
from sides import Sides, Target, page, table, timed, training
from sides import options as asked_for
from torch import nn

from rarefy.training.runtime import SparseLinear

STACKS = [(512, 2048, 512), (768, 3072, 768), (1024, 4096, 1024), (2048, 2048, 2048)]
BATCHES, SPARSITIES = (64, 512), (0.9, 0.95)
OURS, DENSE, PEER = "rarefy", "torch", "sparseprop"


def stack(widths: tuple[int, ...], sparsity: float, sparse: bool) -> nn.Sequential:
    """Linear layers with ReLU between; the sparse one has a random support."""
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        dense = nn.Linear(into, out, bias=False)
        layers += [SparseLinear.from_dense(dense, torch.rand(out, into) >= sparsity) if sparse else dense, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def step(model: nn.Module, batch: int, widths: tuple[int, ...]):
    x, grad = torch.randn(batch, widths[0]).requires_grad_(), torch.randn(batch, widths[-1])

    def call() -> None:
        model.zero_grad()
        x.grad = None
        model(x).backward(grad)

    return call


def cell(widths: tuple[int, ...], batch: int, asked, missing: dict[str, str]):
    """Times of all sides for one stack and batch."""
    sides = Sides()
    sides.turns[DENSE] = training(step(stack(widths, 0.0, sparse=False), batch, widths))
    for sparsity in SPARSITIES:
        sides.turns[f"{OURS} {sparsity}"] = training(step(stack(widths, sparsity, sparse=True), batch, widths))
        shape = [str(n) for n in (batch, sparsity, asked.threads, *widths)]
        sides.peer(f"{PEER} {sparsity}", PEER, "run_sparseprop.py", "stack", *shape)
    times = timed(sides, 2 if asked.quick else 7, seconds=0.05)
    sides.close()
    missing |= dict.fromkeys([PEER] if sides.missing else [], next(iter(sides.missing.values()), ""))
    return times


def main() -> None:
    asked = asked_for(__doc__)
    torch.manual_seed(0)
    rows, missing = [], {}
    against_dense: dict[float, list[float]] = {sparsity: [] for sparsity in SPARSITIES}
    against_peer: dict[float, list[float]] = {sparsity: [] for sparsity in SPARSITIES}
    for widths in STACKS:
        for batch in BATCHES:
            times = cell(widths, batch, asked, missing)
            for sparsity in SPARSITIES:
                ours, peer = f"{OURS} {sparsity}", f"{PEER} {sparsity}"
                gain = times.ratio(ours, DENSE)
                against_dense[sparsity].append(gain)
                known = peer in times.rounds
                if known:
                    against_peer[sparsity].append(times.ratio(ours, peer))
                ratio = [times.ms(peer), times.ratio(ours, peer)] if known else ["-", "-"]
                rows.append(
                    ["-".join(map(str, widths)), batch, sparsity, times.ms(DENSE), times.ms(ours), gain, *ratio]
                )
    head = [
        "widths",
        "batch",
        "sparsity",
        "torch dense ms",
        "rarefy ms",
        "times dense",
        "SparseProp ms",
        "times SparseProp",
    ]
    least = {sparsity: min(against_peer[sparsity], default=None) for sparsity in SPARSITIES}
    targets = [
        Target("least gain over dense at 95 %", 3.0, min(against_dense[0.95])),
        Target("least gain over dense at 90 %", 2.0, min(against_dense[0.9])),
        Target("least gain over SparseProp at 95 %", 1.3, least[0.95]),
        Target("least gain over SparseProp at 90 %", 1.3, least[0.9]),
    ]
    page("speed_linear", "Sparse linear layers in training", table(head, rows), targets, missing, asked)


if __name__ == "__main__":
    main()
