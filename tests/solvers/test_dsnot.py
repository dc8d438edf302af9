"""The catalogued check of DSnoT: counts kept, weights bit-identical, |e| falls, no exchange on zero-mean inputs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Need
from rarefy.core.protocols import Solver
from rarefy.patterns.block import Block
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.pruning import prune
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.dsnot import DSnoT
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT


def problem(seed: int = 0, mean: float = 1.0) -> tuple[Tensor, Tensor]:
    """Inputs with means of their own, as after a ReLU or a norm with a bias."""
    generator = torch.Generator().manual_seed(seed)
    shift = mean * torch.randn(48, generator=generator)
    return torch.randn(32, 48, generator=generator), torch.randn(300, 48, generator=generator) * 0.7 + shift


def lost(weight: Tensor, x: Tensor, solver: Solver, pattern) -> float:
    found = solver(weight, pattern, 0.5 if isinstance(pattern, NM) else 0.3, evidence_of(weight, x))
    return float(((weight - found.weight) @ x.t()).square().sum())


def better_than_wandas_mask(solver: Solver) -> None:
    for pattern in (Rowwise(), NM(2, 4)):
        for seed in range(3):
            weight, x = problem(seed)
            assert lost(weight, x, solver, pattern) < 0.95 * lost(weight, x, Scored(InputNorm()), pattern)


@pytest.mark.parametrize("impostor", [Scored(InputNorm()), Scored(Magnitude())])
def test_dsnot(impostor: Solver) -> None:
    assert_beats_impostor(better_than_wandas_mask, DSnoT(), impostor)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([Rowwise(), Layerwise(), NM(2, 4), NM(4, 8), Block(4, 1), Block(1, 4)]))
def test_counts_stay_weights_do_not_move_and_the_mean_error_falls(seed: int, pattern) -> None:
    weight, x = problem(seed)
    evidence = evidence_of(weight, x)
    start = Scored(InputNorm())(weight, pattern, 0.5, evidence)
    found = DSnoT()(weight, pattern, 0.5, evidence)
    assert torch.equal(found.mask.sum(1), start.mask.sum(1))
    assert pattern.allows(found.mask)
    assert torch.equal(found.weight, weight * found.mask)
    mean = evidence[Need.INPUT_MEAN]
    before, after = (((weight * ~m) @ mean).abs() for m in (start.mask, found.mask))
    if pattern.granularity[0] == 1:
        assert (after <= before + 1e-5).all()
    assert after.sum() <= before.sum() + 1e-4
    assert found.result["mean_error_after"] == pytest.approx(float(after.sum()), rel=1e-3, abs=1e-3)


def test_inputs_without_a_mean_exchange_nothing() -> None:
    weight, x = problem(mean=0.0)
    x = torch.cat([x, -x])
    assert DSnoT()(weight, Rowwise(), 0.3, evidence_of(weight, x)).result["swaps"] == 0


def test_no_graph_is_built() -> None:
    weight, x = problem()
    found = DSnoT()(weight.requires_grad_(False), Rowwise(), 0.3, evidence_of(weight, x))
    assert found.result["swaps"] > 0
    assert not found.weight.requires_grad


def test_one_exchange_by_hand() -> None:
    """e = 2 + 1 of what is pruned; growing the 2 and pruning the -1 (the cheaper of the two that push e down) leaves
    e = 1 - 1 = 0."""
    weight = torch.tensor([[2.0, 1.0, -1.0, -3.0]])
    evidence = evidence_of(weight, torch.ones(4, 4) + torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None])
    start = Scored(_Fixed())
    found = DSnoT(start, threshold=0.0)(weight, Rowwise(), 0.5, evidence)
    assert found.mask.tolist() == [[True, False, False, True]]
    assert found.result["swaps"] == 1


def test_scaling_the_inputs_changes_nothing() -> None:
    weight, x = problem()
    masks = [DSnoT()(weight, Rowwise(), 0.3, evidence_of(weight, s * x)).mask for s in (1.0, 64.0)]
    assert torch.equal(*masks)


def test_starts_from_what_sparsegpt_made_of_the_weights() -> None:
    weight, x = problem()
    evidence = evidence_of(weight, x)
    start = SparseGPT()(weight, Layerwise(), 0.3, evidence)
    found = DSnoT(SparseGPT())(weight, Layerwise(), 0.3, evidence)
    both = start.mask & found.mask
    assert torch.equal(found.weight[both], start.weight[both])


@pytest.mark.parametrize(
    ("pattern", "why", "instead"),
    [
        ("1:4:1", "each way to keep n of m has its count", "1:4"),
        ("t2:4", "each column of a tile has its count too", "2:4"),
    ],
)
def test_a_pattern_that_single_exchanges_break_is_refused(pattern: str, why: str, instead: str) -> None:
    """Where, what was given, why not, what to do; the model stays, and what the message says to do works."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(48, 48)), torch.randn(200, 48) + 1.0
    before = model[0].weight.clone()
    said = (
        f"0: dsnot exchanges weights one by one within a row, which leaves {pattern}, where {why}; "
        f"use {instead}, or wanda, sparsegpt or alps for {pattern}"
    )
    with pytest.raises(SparsityError) as error:
        prune(model, "dsnot", pattern=pattern, data=[x])
    assert str(error.value) == said
    assert torch.equal(model[0].weight, before)
    for method in ("wanda", "sparsegpt", "alps"):
        other = nn.Sequential(nn.Linear(48, 48))
        assert prune(other, method, pattern=pattern, data=[x]).pattern == pattern
    assert prune(model, "dsnot", pattern=instead, data=[x]).pattern == instead


class _Fixed:
    needs = frozenset()

    def __call__(self, weight: Tensor, evidence: object) -> Tensor:
        return torch.tensor([[0.0, 0.0, 1.0, 1.0]])
