"""The one-pass correction of Adam's moments is the correction in torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rarefy.ops import native
from rarefy.ops.moments import AdamMoments, correct_adam
from rarefy.training import fresh_steps

needs_native = pytest.mark.skipif(not native.available(), reason="the native module is not there")
SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.3},
    {"amsgrad": True, "maximize": True},
    {"betas": (0.0, 0.99)},
    {"betas": (0.5, 0.0), "amsgrad": True},
]


def _trained(kind: type[torch.optim.Optimizer], more: dict[str, Any]) -> tuple[torch.optim.Optimizer, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(150, 200, generator=generator))
    optimizer = kind([weight], lr=1e-2, **more)
    for _ in range(9):
        weight.grad = torch.randn(150, 200, generator=generator)
        optimizer.step()
    weight.grad = torch.randn(150, 200, generator=generator)
    return optimizer, weight


@needs_native
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("more", SETTINGS, ids=str)
@pytest.mark.parametrize("type_", [torch.int32, torch.int64], ids=str)
def test_one_pass_and_torch_agree(
    kind: type[torch.optim.Optimizer], more: dict[str, Any], type_: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.randperm(150 * 200, generator=torch.Generator().manual_seed(1))[:20_000].to(type_)
    age = (torch.arange(20_000, dtype=torch.int32) % 7) * 2
    results: list[tuple[Tensor, dict[str, Tensor]]] = []
    for native_path in (True, False):
        optimizer, weight = _trained(kind, more)
        optimizer.state[weight]["step"].fill_(50)
        optimizer.state[weight]["exp_avg"].view(-1)[index.long()[age == 0]] = float("inf")  # what new ones find there
        ways: list[Tensor | None] = []

        def one_way(*args: Any, native_path: bool = native_path, ways: list[Tensor | None] = ways) -> Tensor | None:
            ways.append(correct_adam(*args) if native_path else None)
            return ways[-1]

        monkeypatch.setattr(fresh_steps, "correct_adam", one_way)
        young, finish = fresh_steps.correct(optimizer, weight, index, age)
        assert not finish and (ways[0] is not None) == native_path
        results.append((young, optimizer.state[weight]))
    (young, got), (wanted_young, wanted) = results
    assert young.dtype == torch.bool and torch.equal(young, wanted_young)
    untouched = torch.ones(150 * 200, dtype=torch.bool).index_fill_(0, index.long(), False)
    for name in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if more.get("amsgrad") else [])):
        mine, torchs = got[name].view(-1), wanted[name].view(-1)
        assert torch.allclose(mine, torchs, rtol=1e-6, atol=0.0), name
        assert torch.equal(mine[untouched], torchs[untouched]), name


@needs_native
def test_weights_grow_old_at_different_ages() -> None:
    optimizer, weight = _trained(torch.optim.Adam, {"betas": (0.5, 0.5)})
    optimizer.state[weight]["step"].fill_(1000)
    young, _ = fresh_steps.correct(optimizer, weight, torch.tensor([3, 4]), torch.tensor([12, 13], dtype=torch.int32))
    assert young.tolist() == [True, False]  # 0.5^13 and 0.5^14 beside 1e-4


@needs_native
@pytest.mark.parametrize(("index", "age"), [(30_000, 0), (-1, 0), (5, -1)])
def test_a_position_or_an_age_that_cannot_be_is_refused_and_nothing_is_written(index: int, age: int) -> None:
    optimizer, weight = _trained(torch.optim.Adam, {})
    before = optimizer.state[weight]["exp_avg"].clone()
    with pytest.raises(IndexError, match=f"weight {index} of age {age} in a parameter of 30000"):
        fresh_steps.correct(optimizer, weight, torch.tensor([1, index]), torch.tensor([1, age], dtype=torch.int32))
    assert torch.equal(before, optimizer.state[weight]["exp_avg"])


@pytest.mark.parametrize("why", ["double", "strides", "sizes"])
def test_what_is_not_plain_float32_is_left_to_torch(why: str) -> None:
    weight = torch.zeros(4, 6, dtype=torch.float64 if why == "double" else torch.float32)
    weight = weight.t() if why == "strides" else weight
    moments = AdamMoments(torch.zeros(4, 6), torch.zeros(3 if why == "sizes" else 4, 6), None, (0.9, 0.99), 5)
    index, age = torch.tensor([1]), torch.tensor([0], dtype=torch.int32)
    assert correct_adam(weight, torch.ones(4, 6), index, age, moments, 1e-4) is None
