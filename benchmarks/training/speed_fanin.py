"""Inference with constant fan-in at 90 %: whole calls of a compiled layer with one input, beside the dense layer's."""

from functools import partial

import torch
from sides import Sides, Target, local, options, page, table, timed
from torch import nn

import rarefy

SHAPES, SPARSITY = [(3072, 768), (768, 3072), (1024, 1024), (4096, 1024)], 0.9
THREADS = (1, 2)


def constant_fan_in(out: int, width: int) -> torch.Tensor:
    """A weight whose rows keep equally many entries at random places."""
    keep = round(width * (1 - SPARSITY))
    places = torch.rand(out, width).topk(keep, dim=1).indices
    return torch.zeros(out, width).scatter(1, places, torch.randn(out, keep))


def layer(weight: torch.Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    made.weight.data.copy_(weight)
    return made.eval()


def main() -> None:
    asked = options(__doc__)
    torch.manual_seed(0)
    rows, gains = [], {threads: [] for threads in THREADS}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for out, width in SHAPES:
            sparse, x, dense = layer(constant_fan_in(out, width)), torch.randn(1, width), layer(torch.randn(out, width))
            fast = rarefy.compile(sparse, x)
            torch.testing.assert_close(fast(x), sparse(x), rtol=1e-4, atol=1e-3)
            turns = {"dense": local(partial(dense, x)), "rarefy": local(partial(fast, x))}
            times = timed(Sides(turns), 3 if asked.quick else 7, seconds=0.02, most=1000)
            gains[threads].append(times.ratio("rarefy", "dense"))
            micro = [times.ms(side) * 1e3 for side in turns]
            rows.append([f"{out} x {width}", threads, fast.explain().rows[0].kernel, *micro, gains[threads][-1]])
    head = ["weight", "threads", "kernel", "torch dense us", "rarefy us", "times dense"]
    targets = [Target(f"least gain at batch 1, {threads} threads", 3.0, min(gains[threads])) for threads in THREADS]
    page("speed_fanin", "Constant fan-in at 90 %, one input", table(head, rows), targets, {}, asked)


if __name__ == "__main__":
    main()
