"""Methods that prune once and keep the mask: their checkpoints go on with the same arguments only."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import ModelError, UnknownNameError

DATA = [(torch.randn(32, 16, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4)]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def trainer_of(model: nn.Module, method: str = "snip", **options: Any) -> Any:
    optimizer = torch.optim.Adam(model.parameters())
    return rarefy.sparse_training(model, optimizer, method, data=DATA, loss=loss, **{"sparsity": 0.9, **options})


def saved() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    trainer = trainer_of(model)
    loss(model, DATA[0]).backward()
    trainer.step()
    state = trainer.state_dict()
    trainer.detach()
    return model, state


def test_the_same_arguments_go_on() -> None:
    model, state = saved()
    assert trainer_of(model, state=state).sparsity == pytest.approx(0.9, abs=5e-3)


@pytest.mark.parametrize(
    "other", [{"sparsity": 0.5}, {"sparsity": 70}, {"pattern": "rowwise"}, {"allocation": "erk"}, {"method": "grasp"}]
)
def test_others_are_refused_with_the_difference(other: dict[str, Any]) -> None:
    model, state = saved()
    with pytest.raises(ModelError, match=r"differs: saved .* here "):
        trainer_of(model, state=state, **other)


def test_a_pattern_that_there_is_not() -> None:
    model, state = saved()
    with pytest.raises(UnknownNameError, match="nonsense"):
        trainer_of(model, state=state, pattern="nonsense")
