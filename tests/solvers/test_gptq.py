"""GPTQ with a mask: beside rounding to nearest after SparseGPT, which has to fail each check."""

import numpy as np
import pytest
import torch

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.evidence import Need
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Pattern, Solution, Solver
from rarefy.patterns.block import Block
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.alps import ALPS
from rarefy.solvers.gptq import GPTQ
from rarefy.solvers.quantized import Quantized
from rarefy.solvers.scored import Scored
from rarefy.solvers.sparsegpt import SparseGPT
from solvers.oracles import damped, output_error
from solvers.problems import correlated

INT4, NEAREST4 = QuantizeSpec(4, 16), QuantizeSpec(4, 16, "nearest")


def solved(solver: Solver, pattern: Pattern, density: float, seed: int = 0) -> tuple[Solution, float]:
    weight, x = correlated(out=48, n=64, tokens=400, seed=seed)
    found = solver(weight, pattern, density, evidence_of(weight, x))
    return found, output_error(x.double().numpy(), weight.double().numpy(), found.weight.double().numpy())


def rounds_for_a_quarter_of_the_error_of_nearest(solver: Solver) -> None:
    plain = Quantized(Scored(Magnitude()), NEAREST4)
    for seed in range(3):
        assert solved(solver, Layerwise(), 1.0, seed)[1] < 0.25 * solved(plain, Layerwise(), 1.0, seed)[1]


def loses_less_than_sparsegpt_and_nearest(solver: Solver) -> None:
    plain = Quantized(SparseGPT(), QuantizeSpec(4, None, "nearest"))
    for seed in range(3):
        for pattern in (Layerwise(), NM(2, 4)):
            assert solved(solver, pattern, 0.5, seed)[1] < 0.97 * solved(plain, pattern, 0.5, seed)[1]


def test_gptq() -> None:
    assert_beats_impostor(
        rounds_for_a_quarter_of_the_error_of_nearest, GPTQ(INT4), Quantized(Scored(Magnitude()), NEAREST4)
    )
    impostor = Quantized(SparseGPT(), QuantizeSpec(4, None, "nearest"))
    assert_beats_impostor(loses_less_than_sparsegpt_and_nearest, GPTQ(QuantizeSpec(4)), impostor)


def left_to_right(w: np.ndarray, hessian: np.ndarray, scale: np.ndarray, keep: np.ndarray, most: int) -> np.ndarray:
    """Each column in order: the dropped to zero, the kept to the grid, the error eliminated exactly from the rest."""
    w, inverse = w.copy(), np.linalg.inv(hessian)
    codes = np.zeros_like(w)
    for j in range(w.shape[1]):
        codes[:, j] = np.clip(np.round(w[:, j] / scale), -most, most) * keep[:, j]
        error = (w[:, j] - codes[:, j] * scale) / inverse[j, j]
        w[:, j:] -= np.outer(error, inverse[j, j:])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


@pytest.mark.parametrize("columns", [1, 8, 128])
def test_the_sweep_equals_exact_elimination_in_its_order(columns: int) -> None:
    weight, x = correlated(out=6, n=16)
    evidence = evidence_of(weight, x)
    mask = Scored(Magnitude())(weight, Rowwise(), 0.5, evidence).mask
    found = Quantized(Scored(Magnitude()), QuantizeSpec(4), columns)(weight, Rowwise(), 0.5, evidence)
    assert found.grid is not None
    hessian = damped(evidence[Need.INPUT_GRAM].double().numpy(), 0.01)
    scale = found.grid.scale[:, 0].double().numpy()
    wanted = left_to_right(weight.double().numpy(), hessian, scale, mask.numpy(), 7)
    assert np.array_equal(found.grid.round(found.weight).values.numpy(), wanted)


@pytest.mark.parametrize("pattern", [Layerwise(), Rowwise(), NM(2, 4), Block(4, 1), Block(1, 16)], ids=str)
@pytest.mark.parametrize("spec", [QuantizeSpec(8), QuantizeSpec(4, 16), QuantizeSpec(4, 32), QuantizeSpec(4)], ids=str)
def test_on_the_grid_on_the_pattern_and_exact_in_count(pattern: Pattern, spec: QuantizeSpec) -> None:
    for solver in (GPTQ(spec, columns=20), Quantized(SparseGPT(), spec)):
        found, _ = solved(solver, pattern, 0.5)
        assert int(found.mask.sum()) == pattern.count(48, 64, 0.5) and pattern.allows(found.mask)
        assert (found.weight[~found.mask] == 0).all()
        assert found.grid is not None and found.grid.scale.shape == (48, 64 // (spec.group or 64))
        codes = found.grid.round(found.weight)
        assert torch.equal(codes.dequantize(), found.weight) and int(codes.values.abs().max()) == spec.largest
        assert torch.equal(found.grid.scale.bfloat16().float(), found.grid.scale)


def test_eight_bits_cost_next_to_nothing() -> None:
    """Also after pruning, when kept weights have grown beyond what they were: scales are made for them."""
    for pattern, density in ((Layerwise(), 1.0), (Layerwise(), 0.5), (NM(2, 4), 0.5), (Layerwise(), 0.25)):
        plain, rounded = solved(SparseGPT(), pattern, density)[1], solved(GPTQ(QuantizeSpec(8)), pattern, density)[1]
        scale = solved(Scored(Magnitude()), pattern, 0.5)[1]
        assert rounded < 1.1 * plain + 1e-3 * scale


def test_a_refitted_start_is_what_is_rounded() -> None:
    """ALPS refits; rounding it stays near it, and far below magnitude's weights rounded the same way."""
    refitted, rounded = (
        solved(ALPS(), Layerwise(), 0.4)[1],
        solved(Quantized(ALPS(), QuantizeSpec(8)), Layerwise(), 0.4)[1],
    )
    masked = solved(Quantized(Scored(Magnitude()), QuantizeSpec(8)), Layerwise(), 0.4)[1]
    assert rounded < 1.05 * refitted < masked


def test_nearest_needs_no_data_and_feedback_says_that_it_does() -> None:
    assert Quantized(Scored(Magnitude()), NEAREST4).needs == frozenset()
    assert Quantized(Scored(Magnitude()), INT4).needs == {Need.INPUT_GRAM}


def test_impossible_fields_and_widths() -> None:
    weight, x = correlated()
    for solver in (GPTQ(QuantizeSpec(4, 24)), Quantized(SparseGPT(), QuantizeSpec(4, 24))):
        with pytest.raises(ShapeError, match=r"layer: groups of 24 inputs with one scale do not divide the 32 inputs"):
            solver(weight, Layerwise(), 0.5, evidence_of(weight, x))
    for kind in (GPTQ, lambda **options: Quantized(SparseGPT(), **options)):
        with pytest.raises(SparsityError, match="columns >= 1"):
            kind(columns=0)
