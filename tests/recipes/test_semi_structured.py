"""The hand-over to a GPU: what can be told without one. The conversion itself needs CUDA."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import EngineError
from rarefy.recipes.semi_structured import to_semi_structured, why_not

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def two_of_four(rows: int, columns: int) -> torch.Tensor:
    order = torch.rand(rows, columns // 4, 4).argsort(-1)
    return torch.randn(rows, columns) * (order < 2).reshape(rows, columns)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_use_instead() -> None:
    model = nn.Linear(64, 64)
    before = model.weight
    with pytest.raises(EngineError, match=r"rarefy\.compile"):
        to_semi_structured(model)
    assert model.weight is before


def test_reasons_to_stay_dense() -> None:
    assert "float64" in why_not(torch.zeros(64, 64, dtype=torch.float64))
    assert "multiple" in why_not(torch.zeros(63, 64, dtype=torch.float16))
    assert "move the model" in why_not(two_of_four(64, 64).half())


@needs_gpu
def test_the_model_computes_the_same_on_a_gpu() -> None:
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 7)).half().cuda()
    with torch.no_grad():
        model[0].weight.copy_(two_of_four(128, 128))
    x = torch.randn(32, 128, device="cuda", dtype=torch.float16)
    expected = model(x)
    found = to_semi_structured(model)
    assert found.layers == ("0",) and found.stay.keys() == {"2", "3"}
    assert torch.allclose(model(x), expected, atol=2e-2)
