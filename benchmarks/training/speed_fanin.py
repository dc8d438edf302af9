"""Inference with constant fan-in at 90 %: one input, the kernel that `rarefy.compile` would choose, beside dense."""

from functools import partial

import torch
from sides import Sides, Target, local, options, page, table, timed
from torch.nn.functional import linear

from rarefy import ops

SHAPES, SPARSITY = [(3072, 768), (768, 3072), (1024, 1024), (4096, 1024)], 0.9
THREADS = (1, 2)


def constant_fan_in(out: int, width: int) -> torch.Tensor:
    """A weight whose rows keep equally many entries at random places."""
    keep = round(width * (1 - SPARSITY))
    places = torch.rand(out, width).topk(keep, dim=1).indices
    return torch.zeros(out, width).scatter(1, places, torch.randn(out, keep))


def best(weight: torch.Tensor, x: torch.Tensor) -> ops.PackedWeight:
    """The fastest of the kernels that are worth a try."""
    packed = [ops.pack(weight, kernel) for kernel in ops.candidates(weight, x.shape[0])]
    sides = Sides()
    for p in packed:
        sides.turns[p.kernel] = local(partial(call, p, x))
    times = timed(sides, 3, seconds=0.02)
    return min(packed, key=lambda p: times.ms(p.kernel))


def call(packed: ops.PackedWeight, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.rarefy.packed_linear(x, packed.handle, None, "none", packed.shape[0])


def main() -> None:
    asked = options(__doc__)
    torch.manual_seed(0)
    rows, gains = [], {threads: [] for threads in THREADS}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for out, width in SHAPES:
            weight, x, dense = constant_fan_in(out, width), torch.randn(1, width), torch.randn(out, width)
            packed = best(weight, x)
            torch.testing.assert_close(call(packed, x), linear(x, weight), rtol=1e-4, atol=1e-3)
            turns = {"dense": local(partial(linear, x, dense)), "rarefy": local(partial(call, packed, x))}
            times = timed(Sides(turns), 3 if asked.quick else 7, seconds=0.02)
            gains[threads].append(times.ratio("rarefy", "dense"))
            micro = [times.ms(side) * 1e3 for side in turns]
            rows.append([f"{out} x {width}", threads, packed.kernel, *micro, gains[threads][-1]])
    head = ["weight", "threads", "kernel", "torch dense us", "rarefy us", "times dense"]
    targets = [Target(f"least gain at batch 1, {threads} threads", 3.0, min(gains[threads])) for threads in THREADS]
    page("speed_fanin", "Constant fan-in at 90 %, one input", table(head, rows), targets, {}, asked)


if __name__ == "__main__":
    main()
