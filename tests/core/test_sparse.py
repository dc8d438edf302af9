import pytest
import torch

from rarefy.core.errors import ShapeError
from rarefy.core.sparse import SparseTensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_round_trip_is_exact(dtype: torch.dtype) -> None:
    weight = torch.randn(5, 13).to(dtype)
    weight[torch.rand(5, 13) < 0.6] = 0.0
    weight[2] = 0.0
    packed = SparseTensor.from_dense(weight)
    assert torch.equal(packed.to_dense(), weight)
    assert packed.to_dense().dtype is dtype
    assert packed.nnz == int((weight != 0).sum())
    assert packed.nbytes == packed.nnz * weight.element_size() + 5 * 2
    assert packed.density == pytest.approx(packed.nnz / 65)


def test_a_mask_keeps_explicit_zeros() -> None:
    weight = torch.tensor([[0.0, 1.0, 2.0]])
    packed = SparseTensor.from_dense(weight, torch.tensor([[True, True, False]]))
    assert packed.values.tolist() == [0.0, 1.0]
    assert packed.mask.tolist() == [[True, True, False]]


def test_changing_the_dense_weight_does_not_change_the_record() -> None:
    weight = torch.ones(2, 2)
    packed = SparseTensor.from_dense(weight)
    weight.zero_()
    assert packed.values.tolist() == [1.0] * 4


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError, match="differ"):
        SparseTensor.from_dense(torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool))


def test_density_of_the_smallest() -> None:
    assert SparseTensor.from_dense(torch.ones(1, 1)).density == 1.0
    assert SparseTensor.from_dense(torch.zeros(0, 3)).density == 0.0
