"""All or nothing: an error or an interrupt in the middle leaves no trace."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from contracts.models import CASES
from rarefy.core.errors import RarefyError, SolverError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.topk import keep_top
from rarefy.patterns.nm import NM
from rarefy.pruning import OneShot, prune


@dataclass(frozen=True)
class Spoiling:
    """Halves every weight, and spoils the last layer in some way."""

    spoil: Callable[[torch.Tensor, Pattern, float], Solution]
    last: str
    needs: ClassVar[frozenset[Need]] = frozenset({Need.INPUT_SQNORM})

    def __call__(self, weight: torch.Tensor, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        if evidence.site == self.last:
            return self.spoil(weight, pattern, density)
        mask = pattern.select(weight.abs(), density)
        return Solution(weight * mask / 2, mask)


def interrupted(weight: torch.Tensor, pattern: Pattern, density: float) -> Solution:
    raise KeyboardInterrupt


def not_finite(weight: torch.Tensor, pattern: Pattern, density: float) -> Solution:
    mask = pattern.select(weight.abs(), density)
    return Solution(torch.where(mask, weight / 0.0, 0.0), mask)


def too_many(weight: torch.Tensor, pattern: Pattern, density: float) -> Solution:
    return Solution(weight, torch.ones_like(weight, dtype=torch.bool))


def off_the_pattern(weight: torch.Tensor, pattern: Pattern, density: float) -> Solution:
    mask = keep_top(weight.abs().reshape(1, -1), pattern.count(*weight.shape, density)).reshape(weight.shape)
    return Solution(weight * mask, mask)


def prune_spoiled(case: str, spoil: Any, error: type[BaseException], why: str) -> None:
    made = CASES[case]()
    last = {"perceptron": "4", "convnet": "head", "bert": "pooler.dense"}[case]
    before = {k: v.clone() for k, v in made.model.state_dict().items()}
    modes = [m.training for m in made.model.modules()]
    seen: list[str] = []
    with pytest.raises(error, match=why):
        prune(
            made.model,
            OneShot(Spoiling(spoil, last), pattern=NM(2, 4)),
            data=made.batches,
            ignore=["depthwise"] if case == "convnet" else [],
            progress=lambda name, done, total: seen.append(name),
        )
    assert len(seen) >= 2, "the error came before anything was written"
    assert all(torch.equal(v, before[k]) for k, v in made.model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.model.modules())
    assert [m.training for m in made.model.modules()] == modes


@pytest.mark.parametrize("case", CASES)
def test_an_interrupt(case: str) -> None:
    prune_spoiled(case, interrupted, KeyboardInterrupt, "^$")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (not_finite, "the solver returned NaN or infinity"),
        (too_many, "the solver kept 256 weights, but 128 were asked"),
        (off_the_pattern, "the solver left the pattern 2:4"),
    ],
)
def test_a_solver_that_breaks_its_promise(spoil: Any, why: str) -> None:
    prune_spoiled("perceptron", spoil, SolverError, f"4: {why}")


def test_an_error_in_the_users_own_callback() -> None:
    made = CASES["perceptron"]()
    before = {k: v.clone() for k, v in made.model.state_dict().items()}

    def progress(name: str, done: int, total: int) -> None:
        if done == 2:
            raise OSError("no terminal")

    with pytest.raises(OSError, match="no terminal"):
        prune(made.model, "magnitude", sparsity=0.5, progress=progress)
    assert all(torch.equal(v, before[k]) for k, v in made.model.state_dict().items())
    assert not issubclass(OSError, RarefyError)
