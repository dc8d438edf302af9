"""RigL through `rarefy.sparse_training`: masks over dense weights, and only the kept weights, beside plain dense torch.

A multilayer perceptron with Adam. Steps at which masks change are timed by themselves and counted as one in 100. Peaks
are those of a process of its own above what it held before the model was made, changes of the masks included. A row of
its own has the steps after some changes, where Adam's moments of young weights are corrected one by one.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import torch
from memory import peak
from sides import Sides, Target, options, page, stack, steps, table, timed, training
from torch import nn

import rarefy
from rarefy.training.runtime import SparseLinear, Topology

WIDTH, DEPTH, TOKENS, SPARSITY, EVERY = 2048, 4, 256, 0.95, 100
SIDES = {"torch dense": None, "rigl, dense runtime": "dense", "rigl, sparse runtime": "sparse"}
GROWS = " at a change of masks"
CHANGES = 3
OLDER = f"the same, after {CHANGES} changes of masks"


def stepper(runtime: str | None, every: int = 10**6) -> Callable[[], float]:
    """One training step after another, and what the last one's loss was."""
    model = stack(WIDTH, DEPTH)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, foreach=False)
    settings = {"sparsity": SPARSITY, "allocation": "uniform", "every": every, "total_steps": 10**6}
    step = optimizer.step
    if runtime is not None:
        step = rarefy.sparse_training(model, optimizer, "rigl", runtime=runtime, **settings).step
    return steps(model, optimizer, step, TOKENS, WIDTH)


def older() -> Callable[[], float]:
    """Steps on the kept weights with young ones among them."""
    call = stepper("sparse", every=EVERY)
    for _ in range(CHANGES * EVERY + 1):
        call()
    return call


def child(name: str) -> None:
    """Peaks of a process: while the trainer is made (the dense model is there), and over steps with two growths."""
    nn.Linear(64, 64)(torch.ones(16, 64)).sum().backward()
    SparseLinear(64, 64, Topology(torch.rand(64, 64) < 0.1))(torch.ones(16, 64)).sum().backward()
    before = peak()
    call = stepper(SIDES[name], every=2)
    for _ in range(6):
        call()
    print(json.dumps(peak() - before))


def main() -> None:
    asked = options(__doc__)
    peaks = {}
    for name in SIDES:
        ran = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        peaks[name] = json.loads(ran.stdout.splitlines()[-1]) / 2**20
    calls = {name: stepper(runtime) for name, runtime in SIDES.items()}
    masked, packed = (calls[name]() for name in list(SIDES)[1:])
    if abs(masked - packed) > 1e-4 * abs(masked):
        raise SystemExit(f"the first losses differ: {masked} and {packed}")
    for name, runtime in list(SIDES.items())[1:]:
        calls[name + GROWS] = stepper(runtime, every=1)
    calls[OLDER] = older()
    sides = Sides()
    sides.turns = {name: training(call) for name, call in calls.items()}
    times = timed(sides, 2 if asked.quick else 5, seconds=0.3, most=10)
    sides.close()
    dense, ours = "torch dense", "rigl, sparse runtime"
    mean = {
        n: (times.ms(n) * (EVERY - 1) + times.ms(n + GROWS if n + GROWS in times.rounds else n)) / EVERY for n in SIDES
    }
    rows = [[n, times.ms(n), times.ms(n + GROWS) if SIDES[n] else "", mean[dense] / mean[n], peaks[n]] for n in SIDES]
    rows.append([OLDER, times.ms(OLDER), "", times.ms(dense) / times.ms(OLDER), ""])
    head = ["side", "ms a step", "ms where masks change", "times as fast as dense", "peak MiB"]
    body = f"{DEPTH} layers of {WIDTH} x {WIDTH}, {TOKENS} rows, Adam, {SPARSITY:.0%} zeros.\n\n" + table(head, rows)
    targets = [Target("a step of RigL, times dense", 3.0, mean[dense] / mean[ours])]
    page("speed_trainer", "RigL through the trainer", body, targets, sides.missing, asked)


if __name__ == "__main__":
    child(sys.argv[1]) if sys.argv[1:2] and sys.argv[1] in SIDES else main()
