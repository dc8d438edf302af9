"""The catalogued check of the sketching bound: sparse matrices come back from their sketch, dense ones do not."""

import itertools

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.analysis.sketch_bound import decode, left_regular, magnitude_compression, sketch_bound
from rarefy.core.errors import DataError, SparsityError
from rarefy.pruning import prune


def one_a_row_and_column(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(20, generator=generator, dtype=torch.float64)
    return torch.zeros(20, 20, dtype=torch.float64).scatter(
        1, torch.randperm(20, generator=generator)[:, None], values[:, None]
    )


def comes_back(a: torch.Tensor, m: int, seed: int) -> bool:
    generator = torch.Generator().manual_seed(100 + seed)
    left, right = (left_regular(m, 20, 3, generator) for _ in range(2))
    found = decode(left @ a @ right.t(), left, right, steps=1500)
    return bool((found - a).abs().max() < 1e-6)


def sparse_matrices_come_back(make) -> None:
    assert sum(comes_back(make(seed), 16, seed) for seed in range(4)) >= 3


def dense(seed: int) -> torch.Tensor:
    full = torch.randn(20, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return full * one_a_row_and_column(seed).norm() / full.norm()


def test_sketching() -> None:
    assert_beats_impostor(sparse_matrices_come_back, one_a_row_and_column, dense)


def test_a_smaller_sketch_mostly_fails() -> None:
    """Of 12 for 20 rows, none of eight came back when this was written."""

    def mostly_fails(m: int) -> None:
        assert sum(comes_back(one_a_row_and_column(seed), m, seed) for seed in range(8)) <= 2

    assert_beats_impostor(mostly_fails, 12, 16)


def test_left_regular_columns() -> None:
    found = left_regular(9, 30, 4, torch.Generator().manual_seed(0))
    assert (found.sum(0) == 4).all()
    with pytest.raises(SparsityError, match="delta=10"):
        left_regular(9, 30, 10, torch.Generator())


def test_large_entries_survive_compression_and_the_change_is_bounded() -> None:
    weight = torch.randn(50, 50)
    psi = 0.01
    kept = magnitude_compression(weight, psi, torch.Generator().manual_seed(0))
    assert (kept[weight.abs() > 2.0] != 0).all()
    assert 0.05 < float((kept == 0).float().mean()) < 0.95
    assert float((weight - kept).square().sum()) <= 50 * 50 * 50 * psi / 2.718


def test_the_complexity_falls_with_the_density() -> None:
    terms = []
    for sparsity in (0.0, 0.5, 0.9, 0.99):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 200))
        if sparsity:
            prune(model, "random", sparsity=sparsity)
        terms.append(sketch_bound(model, samples=60_000, margin_loss=0.05))
    assert all(b.complexity < a.complexity for a, b in itertools.pairwise(terms))
    assert terms[-1].complexity < 0.1 * terms[0].complexity
    assert terms[-1].bound == pytest.approx(0.05 + terms[-1].term)


def test_impossible_samples() -> None:
    with pytest.raises(DataError, match="samples=0"):
        sketch_bound(nn.Linear(4, 4), 0, 0.1)
