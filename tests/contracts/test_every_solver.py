"""Every solver: exact count on an allowed support, finite, repeatable, zeros stay zeros, evidence declared."""

import pytest
import torch
from torch import Tensor

from contracts.examples import PATTERNS, all_of, evidence_of, make
from rarefy.core.errors import EvidenceError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.registry import Entry

EVERY = pytest.mark.parametrize("entry", all_of("solver"))
SUPPORTS = pytest.mark.parametrize("pattern", PATTERNS, ids=str)


def problem(kind: str = "random") -> tuple[Tensor, Tensor]:
    """A weight (8, 16) and correlated inputs (64, 16)."""
    x = torch.randn(64, 16)
    x = x + 0.8 * x.roll(1, dims=1)
    weight = torch.randn(8, 16)
    if kind == "zero columns":
        x[:, 4:7] = 0.0
    if kind == "few tokens":
        x = x[:3]
    if kind == "no signal":
        x = torch.zeros(64, 16)
    if kind == "extreme":
        weight[0, 0], weight[1, 1] = 1e12, 1e-42
        x[:, 0] *= 1e6
        x[:, 1] *= 1e-6
    return weight, x


def on_support(solution: Solution) -> Tensor:
    """The weight, not zero wherever the mask keeps: a solver that rounds may have left zeros inside a tile."""
    if solution.grid is None:
        return solution.weight
    return torch.where(solution.mask & (solution.weight == 0), 0.01, solution.weight)


@EVERY
@SUPPORTS
@pytest.mark.parametrize("kind", ["random", "zero columns", "few tokens", "no signal", "extreme"])
def test_exact_allowed_and_finite(entry: Entry, pattern: Pattern, kind: str) -> None:
    weight, x = problem(kind)
    solution = make(entry)(weight, pattern, 0.5, evidence_of(weight, x))
    assert solution.weight.shape == solution.mask.shape == weight.shape
    assert int(solution.mask.sum()) == pattern.count(8, 16, 0.5)
    assert pattern.allows(solution.mask)
    assert solution.weight.isfinite().all()
    assert (solution.weight[~solution.mask] == 0).all()
    if solution.grid is not None:
        assert torch.equal(solution.grid.round(solution.weight).dequantize(), solution.weight)


@EVERY
@pytest.mark.parametrize("density", [0.0, 0.01, 0.13, 0.87, 1.0])
def test_every_density_is_exact(entry: Entry, density: float) -> None:
    weight, x = problem()
    for pattern in (p for p in PATTERNS if p.span is None):
        solution = make(entry)(weight, pattern, density, evidence_of(weight, x))
        assert int(solution.mask.sum()) == pattern.count(8, 16, density), pattern


@EVERY
def test_double_precision_is_taken_and_kept(entry: Entry) -> None:
    weight, x = problem()
    solution = make(entry)(weight.double(), PATTERNS[0], 0.5, evidence_of(weight, x))
    assert solution.weight.dtype is torch.float64
    assert int(solution.mask.sum()) == PATTERNS[0].count(8, 16, 0.5)


@EVERY
def test_nothing_to_drop_changes_nothing(entry: Entry) -> None:
    weight, x = problem()
    solution = make(entry)(weight, PATTERNS[0], 1.0, evidence_of(weight, x))
    assert solution.mask.all()
    if solution.grid is not None:  # it rounds: then the output stays, and each weight within the steps it may take
        off = (solution.weight - weight) @ x.T
        assert off.square().sum() < 1e-3 * (weight @ x.T).square().sum()
        assert ((solution.weight - weight).abs() < 8 * solution.grid.scale).all()
        return
    torch.testing.assert_close(solution.weight, weight, rtol=1e-5, atol=1e-5)


@EVERY
@SUPPORTS
def test_repeatable_and_nothing_touched(entry: Entry, pattern: Pattern) -> None:
    weight, x = problem()
    evidence = evidence_of(weight, x)
    copy, before = weight.clone(), {k: v.clone() for k, v in evidence.items()}
    first = make(entry)(weight, pattern, 0.5, evidence)
    again = make(entry)(weight, pattern, 0.5, evidence)
    assert torch.equal(first.weight, again.weight) and torch.equal(first.mask, again.mask)
    assert torch.equal(weight, copy)
    assert all(torch.equal(v, before[k]) for k, v in evidence.items())


@EVERY
@SUPPORTS
def test_zeros_stay_and_count(entry: Entry, pattern: Pattern) -> None:
    """A weight that is sparse on the pattern already: less sparsity asked leaves its support as it is."""
    weight, x = problem()
    evidence = evidence_of(weight, x)
    sparse = make(entry)(weight, pattern, 0.5, evidence)
    left = on_support(sparse)
    already = left != 0
    again = make(entry)(left, pattern, 0.5, evidence)
    assert torch.equal(again.mask, already)
    if pattern.span is None:
        looser = make(entry)(left, pattern, 0.75, evidence)
        assert torch.equal(looser.mask, already)
        tighter = make(entry)(left, pattern, 0.25, evidence)
        assert int(tighter.mask.sum()) == pattern.count(8, 16, 0.25)
        assert not (tighter.mask & ~already).any()


@EVERY
def test_needs_are_honest(entry: Entry) -> None:
    solver = make(entry)
    weight, x = problem()
    full = evidence_of(weight, x)
    enough = Evidence("fc", {need: full[need] for need in solver.needs}, full.tokens)
    assert solver(weight, PATTERNS[0], 0.5, enough).mask.any()
    for need in solver.needs:
        left = {k: v for k, v in enough.items() if k is not need}
        with pytest.raises(EvidenceError, match=need.name):
            solver(weight, PATTERNS[0], 0.5, Evidence("fc", left, full.tokens))
