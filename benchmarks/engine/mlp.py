"""A multi-layer perceptron 768-3072-768-3072-768, float32, random zeros, beside every engine that can run it."""

import math
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path

import deepsparse
import torch
from harness import Sides, Target, options, report, show, table, timed
from torch import Tensor, nn

import rarefy
from rarefy.engine.rivals.names import find

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95)
BATCHES = (1, 16, 128)
DENSE = ("torch", "torch.compile", "onnxruntime", "openvino")
WANTED = {0.7: 1.6, 0.8: 2.3, 0.9: 4.0, 0.95: 6.0}  # at batch 128, against the best dense engine


def model(sparsity: float) -> nn.Module:
    torch.manual_seed(0)
    widths = (768, 3072, 768, 3072, 768)
    layers: list[nn.Module] = []
    for width, out in pairwise(widths):
        layer = nn.Linear(width, out)
        layer.weight.data *= torch.rand_like(layer.weight) >= sparsity
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def rival(name: str, net: nn.Module, x: Tensor) -> partial[Tensor]:
    [found] = find(name)
    why = found.available()
    if why is not None:
        raise RuntimeError(why)
    return partial(found.prepare(net, x, [x]), x)


def main() -> None:
    asked = options(__doc__)
    rows, targets, missing, charts = [], [], {}, {}
    beside: list[float] = []
    worst, worst_dense = math.inf, math.inf
    for batch in BATCHES:
        x = torch.randn(batch, 768, generator=torch.Generator().manual_seed(1))
        sides, nets = Sides(), {s: model(s) for s in SPARSITIES}
        with tempfile.TemporaryDirectory() as scratch:
            sides.here("torch", lambda net=nets[0.5], x=x: partial(net, x))
            for name in DENSE[1:]:
                sides.here(name, lambda name=name, net=nets[0.5], x=x: rival(name, net, x))
            for s, net in nets.items():
                fast = rarefy.compile(net, x)
                sides.here(f"rarefy {s:.0%}", lambda fast=fast, x=x: partial(fast, x))
                deepsparse.add(sides, f"deepsparse {s:.0%}", net, [x], Path(scratch))
            show(f"batch {batch}: {list(sides.turns)}")
            got = timed(sides, 3 if asked.quick else 7, 0.05 if asked.quick else 0.15)
            sides.close()
        missing |= sides.missing
        charts[f"batch {batch}"] = got
        best = got.best(DENSE)
        for s in SPARSITIES:
            ours, theirs = f"rarefy {s:.0%}", f"deepsparse {s:.0%}"
            against = got.ratio(ours, best)
            peer = got.ratio(ours, theirs) if theirs in got.rounds else None
            dense = [got.ms(n) if n in got.rounds else "-" for n in DENSE]
            rows.append(
                [batch, f"{s:.0%}", *dense, got.ms(theirs) if peer else "-", got.ms(ours), against, peer or "-"]
            )
            worst_dense = min(worst_dense, against)
            if peer is not None:
                worst = min(worst, peer)
                if s >= 0.7:
                    beside.append(peer)
            if batch == 128 and s in WANTED:
                targets.append(Target(f"batch 128, {s:.0%} zeros, times the best dense engine", WANTED[s], against))
    targets.append(Target("the worst cell, times the best dense engine", 1.0, worst_dense))
    mean = math.exp(sum(map(math.log, beside)) / len(beside)) if beside else None
    targets.append(Target("geometric mean over 70-95 %, times DeepSparse 1.8.0", 2.0, mean))
    targets.append(Target("the worst cell, times DeepSparse 1.8.0", 1.0, worst if beside else None))
    head = ["batch", "zeros", *(f"{n} ms" for n in DENSE), "DeepSparse ms", "rarefy ms", "x best dense", "x DeepSparse"]
    report("mlp", "MLP 768-3072-768-3072-768, float32", table(head, rows), targets, missing, asked, charts)


if __name__ == "__main__":
    main()
