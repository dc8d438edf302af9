"""A training step of each method, with masks over dense weights and on the kept weights only, beside plain dense torch.

Steps before the first change of the masks, Adam, zeros spread evenly. Held: bytes of weights, gradients, optimizer
state, masks and what the method remembers by then.
"""

from collections.abc import Callable
from typing import Any

import torch
from sides import Sides, Target, held, options, page, stack, steps, table, timed, training

import rarefy

WIDTH, DEPTH, TOKENS, NEVER = 1024, 3, 256, 10**6
SPARSITIES = (0.8, 0.9, 0.95, 0.98)
METHODS: dict[str, dict[str, Any]] = {
    "static": {},
    "set": {"every": NEVER},
    "deep-rewiring": {},
    "sparse-momentum": {"every": NEVER},
    "dst-ee": {"every": NEVER},
    "rigl": {"every": NEVER},
    "srigl": {"every": NEVER},
    "top-kast": {"every": NEVER},
    "powerpropagation": {"every": NEVER},
    "blast-block-sparse": {"every": NEVER},
}
DENSE = "dense torch"
NOTE = """\
Steps and bytes are those before the first change of masks. After some, a step with Adam also corrects the moments of
young weights, which adds half to the packed ones of speed-trainer.md; their places and ages are held (16 bytes each).
DST-EE counts the rounds of every entry from its first growth on: 4 bytes each, 0.25 of what dense training holds."""


def side(method: str | None, sparsity: float, runtime: str) -> tuple[Callable[[], float], Callable[[], int], str]:
    """(a step, bytes held, what the runtime says of the layers)."""
    model = stack(WIDTH, DEPTH)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, foreach=False)
    step, trainer = optimizer.step, None
    if method is not None:
        settings = {"sparsity": sparsity, "allocation": "uniform", "total_steps": NEVER, **METHODS[method]}
        trainer = rarefy.sparse_training(model, optimizer, method, runtime=runtime, **settings)
        step = trainer.step

    return (
        steps(model, optimizer, step, TOKENS, WIDTH),
        lambda: held(model, optimizer, trainer),
        "" if trainer is None else next(iter(trainer.runtime.values())),
    )


def main() -> None:
    asked = options(__doc__)
    sparsities = SPARSITIES[2:3] if asked.quick else SPARSITIES
    pieces, gains = [], {}
    for sparsity in sparsities:
        made = {DENSE: side(None, 0.0, "dense")}
        for method in METHODS:
            made[method] = side(method, sparsity, "dense")
            packed = side(method, sparsity, "sparse")
            if packed[2] == "sparse":
                made[method + ", packed"] = packed
        sides = Sides()
        sides.turns = {name: training(call) for name, (call, _, _) in made.items()}
        times = timed(sides, 3 if asked.quick else 5, seconds=0.1, most=10)
        sides.close()
        base = made[DENSE][1]()
        rows = [
            [name, times.ms(name), times.ratio(name, DENSE), size() / 2**20, size() / base]
            for name, (_, size, _) in made.items()
        ]
        pieces.append(
            f"## {sparsity:.0%}\n\n" + table(["", "ms a step", "times as fast as dense", "held MiB", "of dense"], rows)
        )
        gains[sparsity] = times.ratio("rigl, packed", DENSE)
    body = f"{DEPTH} layers of {WIDTH} x {WIDTH}, {TOKENS} rows.\n\n{NOTE}\n\n" + "\n\n".join(pieces)
    targets = [Target("a step of RigL at 95 %, packed, times dense", 3.0, gains[0.95])]
    page("speed_methods", "A step of each method", body, targets, {}, asked)


if __name__ == "__main__":
    main()
