"""Quality is 1 for the same model, and falls for another."""

import pytest
import torch

from rarefy.core.errors import ShapeError
from rarefy.recipes.quality import compare, nearest


def _rows(seed, rows=60, width=16):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def test_same_outputs_are_perfect():
    x = _rows(0)
    same = compare(3 * x, x)
    assert same.cosine == pytest.approx(1.0)
    assert same.overlap == 1.0


def test_unrelated_outputs_are_bad():
    other = compare(_rows(1), _rows(0))
    assert abs(other.cosine) < 0.1
    assert other.overlap < 0.35  # 10 of 59 by chance


def test_a_rotation_keeps_neighbours_and_loses_the_cosine():
    x = _rows(0)
    q, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))
    turned = compare(x @ q, x)
    assert turned.overlap == pytest.approx(1.0)
    assert turned.cosine < 0.5


def test_overlap_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.3, 0.7, 1.5])
    x = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest(x, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]]
    y = x.clone()
    y[4] = x[0] @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])  # still past the fourth
    assert compare(y, x, top=2).overlap == 1.0
    y[0] = -x[0]
    assert compare(y, x, top=2).overlap < 1.0


def test_too_few_rows_have_no_overlap():
    assert compare(_rows(0, rows=5), _rows(0, rows=5)).overlap is None


def test_different_shapes_are_refused():
    with pytest.raises(ShapeError, match="different inputs"):
        compare(_rows(0), _rows(0, rows=3))
