"""Threshold and TopK: what is kept, how it is padded, and that the gathered product is the dense one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.core.errors import ShapeError, SparsityError
from rarefy.core.protocols import Selector
from rarefy.core.selection import Selection
from rarefy.selectors import Threshold, TopK


def gathered(selection: Selection, weight: torch.Tensor) -> torch.Tensor:
    """(tokens, out): the product that reads only the selected columns of `weight` (out, in)."""
    return torch.einsum("tk,otk->to", selection.value, weight[:, selection.index])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 17), st.floats(0, 2), st.booleans(), st.integers(0, 99))
def test_the_gathered_product_is_the_dense_one(tokens: int, width: int, at: float, weighted: bool, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=g, dtype=torch.float64)
    x[x.abs() < 0.3] = 0.0
    weight = torch.rand(width, generator=g, dtype=torch.float64) if weighted else None
    matrix = torch.randn(3, width, generator=g, dtype=torch.float64)
    for selector in (Threshold(torch.tensor(at, dtype=torch.float64), weight), TopK(min(width, seed % 7), weight)):
        found = selector(x, None)
        assert found.size == width and found.index.shape == found.value.shape
        assert torch.allclose(gathered(found, matrix), (x * selector.mask(x)) @ matrix.T, atol=1e-12)


def test_they_are_selectors() -> None:
    assert isinstance(Threshold(torch.zeros(())), Selector)
    assert isinstance(TopK(1), Selector)


def test_threshold_is_strict_and_zero_keeps_the_nonzero() -> None:
    x = torch.tensor([[0.0, -0.0, 1e-30, -2.0], [0.0, 0.0, 0.0, 0.0]])
    assert Threshold(torch.zeros(())).mask(x).tolist() == [[False, False, True, True], [False] * 4]
    assert Threshold(torch.tensor(2.0)).mask(x).sum() == 0
    assert Threshold(torch.tensor(-1.0)).mask(x).all()


def test_the_weight_and_a_threshold_each_decide() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0]])
    assert Threshold(torch.tensor(1.5), torch.tensor([1.0, 2.0, 3.0])).mask(x).tolist() == [[False, True, True]]
    assert Threshold(torch.tensor([0.5, 1.0, 2.0])).mask(x).tolist() == [[True, False, False]]


def test_ragged_tokens_are_padded_with_index_0_and_value_0() -> None:
    x = torch.tensor([[5.0, 6.0, 7.0], [0.0, 0.0, 0.0], [0.0, 8.0, 0.0]])
    found = Threshold(torch.zeros(()))(x)
    assert found.index.tolist() == [[0, 1, 2], [0, 0, 0], [1, 0, 0]]
    assert found.value.tolist() == [[5.0, 6.0, 7.0], [0.0, 0.0, 0.0], [8.0, 0.0, 0.0]]


def test_nothing_selected_and_everything_selected() -> None:
    x = torch.randn(4, 6)
    assert Threshold(torch.tensor(torch.inf))(x).index.shape == (4, 0)
    assert TopK(0)(x).value.shape == (4, 0)
    assert torch.equal(TopK(6)(x).value, x)
    assert Threshold(torch.zeros(()))(x[:0]).index.shape == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_top_k_is_exact_even_where_all_are_equal(dtype: torch.dtype) -> None:
    x = torch.ones(3, 4, 10, dtype=dtype)
    mask = TopK(4).mask(x)
    assert mask.shape == x.shape and (mask.sum(-1) == 4).all()
    assert mask[..., :4].all(), "ties go to the lower index"


def test_bad_selectors_say_so() -> None:
    with pytest.raises(SparsityError, match="k is -1"):
        TopK(-1)
    with pytest.raises(SparsityError, match="NaN"):
        Threshold(torch.tensor(float("nan")))
    with pytest.raises(ShapeError, match=r"\(width,\)"):
        Threshold(torch.zeros(2, 2))
    with pytest.raises(ShapeError, match="made for inputs of 3 features"):
        Threshold(torch.zeros(3)).mask(torch.zeros(1, 4))
    with pytest.raises(SparsityError, match="outside"):
        TopK(5).mask(torch.zeros(1, 4))
