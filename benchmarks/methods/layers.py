"""Times pruning one layer with SparseGPT, Wanda and DSnoT beside the published programs; prints a table.

    python benchmarks/methods/layers.py --references FOLDER [--shape 768x3072] [--rounds 5] [--only sparsegpt,...]

Weights and inputs are random, inputs correlated. Rounds are interleaved, each contender once a round in an order that
changes; a row gives the fastest round of each, and whether one's kept rounds are all faster than the other's fastest.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from references import References
from torch import Tensor, nn

from rarefy.calibration.accumulator import Accumulators
from rarefy.core.evidence import Evidence, Need
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.pruning import prune
from rarefy.solvers.dsnot import DSnoT
from rarefy.solvers.sparsegpt import SparseGPT

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One layer and its calibration samples, (1, tokens, in) each."""

    weight: Tensor
    samples: list[Tensor]
    sparsity: float = 0.5

    def evidence(self, *needs: Need) -> Evidence:
        sums = Accumulators(["layer"], needs)
        for x in self.samples:
            sums.add("layer", x.reshape(-1, 1, x.shape[-1]))
        return sums.take("layer", 1)


def case(out: int, width: int, samples: int, tokens: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(64, width, generator=generator)
    drawn = torch.randn(samples, 1, tokens, 64, generator=generator) @ mix / 8
    x = drawn + 0.5 * torch.randn(drawn.shape, generator=generator) + 0.1
    return Case(torch.randn(out, width, generator=generator) / width**0.5, list(x))


def sparsegpt(c: Case, theirs: References) -> dict[str, tuple[Call, Call]]:
    state = theirs.gram(c.weight, c.samples)
    gram, evidence = state.H.clone(), c.evidence(Need.INPUT_GRAM)  # type: ignore[attr-defined]

    def sweep(nm: tuple[int, int]) -> Call:
        def call() -> object:
            state.layer.weight.data = c.weight.clone()  # type: ignore[attr-defined]
            return theirs.sparsegpt(state, gram, c.sparsity, nm)

        return call

    def solve(pattern: object) -> Call:
        return lambda: SparseGPT()(c.weight, pattern, c.sparsity, evidence)  # type: ignore[arg-type]

    return {
        "SparseGPT: Gram": (lambda: c.evidence(Need.INPUT_GRAM), lambda: theirs.gram(c.weight, c.samples)),
        "SparseGPT: solve": (solve(Layerwise()), sweep((0, 0))),
        "SparseGPT: solve 2:4": (solve(NM(2, 4)), sweep((2, 4))),
    }


def whole(c: Case, method: str) -> object:
    """Our whole call on a model that is the layer, calibration included."""
    layer = nn.Linear(c.weight.shape[1], c.weight.shape[0], bias=False)
    layer.weight.data = c.weight.clone()
    return prune(nn.Sequential(layer), method, sparsity=c.sparsity, data=c.samples)


def wanda(c: Case, theirs: References) -> dict[str, tuple[Call, Call]]:
    ours = lambda: whole(c, "wanda")  # noqa: E731
    return {"Wanda: whole call": (ours, lambda: theirs.wanda(c.weight, c.samples, c.sparsity))}


def dsnot(c: Case, theirs: References) -> dict[str, tuple[Call, Call]]:
    evidence = c.evidence(*DSnoT().needs)
    return {
        "DSnoT: whole call": (
            lambda: whole(c, "dsnot"),
            lambda: theirs.dsnot(c.weight, c.samples, c.sparsity),
        ),
        "DSnoT: mask and exchanges": (
            lambda: DSnoT()(c.weight, Rowwise(), c.sparsity, evidence),
            lambda: theirs.dsnot(c.weight, c.samples[:1], c.sparsity)[1],  # a number: its own clock
        ),
    }


PARTS = {"sparsegpt": sparsegpt, "wanda": wanda, "dsnot": dsnot}


def seconds(call: Call) -> float:
    """The call's own time where it returns one, else by the clock."""
    started = time.perf_counter()
    result = call()
    return result if isinstance(result, float) else time.perf_counter() - started


def measure(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            found[name].append(seconds(calls[name]))
    return found


def verdict(mine: list[float], theirs: list[float]) -> str:
    kept = lambda all_of: sorted(all_of)[: max(1, len(all_of) * 3 // 4)]  # noqa: E731
    if kept(mine)[-1] < min(theirs):
        return "faster"
    return "slower" if min(mine) > kept(theirs)[-1] else "no difference"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--references", type=Path, default=os.environ.get("RAREFY_PEERS"))
    parser.add_argument("--shape", default="768x3072", help="out x in")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(PARTS))
    asked = parser.parse_args()
    if asked.references is None:
        parser.error("--references or RAREFY_PEERS: the folder of the published programs")
    theirs, (out, width) = References(Path(asked.references)), map(int, asked.shape.split("x"))
    c = case(out, width, asked.samples, asked.tokens)
    for name in asked.only.split(","):
        for row, (mine, other) in PARTS[name](c, theirs).items():
            mine(), other()
            found = measure({"ours": mine, "theirs": other}, asked.rounds)
            ours, published = min(found["ours"]), min(found["theirs"])
            said = verdict(found["ours"], found["theirs"])
            print(
                f"| {out}x{width} | {row} | {ours:.3f} | {published:.3f} | {published / ours:.2f} | {said} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
