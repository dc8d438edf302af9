"""Training that goes on from a checkpoint is the training that was not interrupted."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from activations.tiny import llama, next_loss, text
from rarefy.activations.penalty import L1, ActivationPenalty
from rarefy.activations.prosparse import ProSparse
from rarefy.core.errors import DataError
from rarefy.schedules.cosine import Cosine

METHOD = ProSparse(ends=(2, 4, 8), weights=(0.1, 0.5, 2.0))


def begun() -> tuple[nn.Module, torch.optim.Optimizer, ActivationPenalty]:
    model = llama()
    penalty = METHOD.begin(model)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3), penalty


def steps(model: nn.Module, adam: torch.optim.Optimizer, penalty: ActivationPenalty, which: range) -> list[Tensor]:
    losses = []
    for step in which:
        loss = next_loss(model, text(seed=step)) + penalty.loss()
        adam.zero_grad()
        loss.backward()
        adam.step()
        penalty.step()
        losses.append(loss.detach())
    return losses


def test_prosparse_goes_on_in_its_stage() -> None:
    whole = steps(*begun(), range(8))
    model, adam, penalty = begun()
    steps(model, adam, penalty, range(5))
    saved: dict[str, Any] = {"model": model.state_dict(), "adam": adam.state_dict(), "penalty": penalty.state_dict()}
    again, other, later = begun()
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["adam"])
    later.load_state_dict(saved["penalty"])
    assert later.weight == penalty.weight > METHOD.weights[1]
    assert torch.equal(torch.stack(steps(again, other, later, range(5, 8))), torch.stack(whole[5:]))


def test_a_state_that_is_none_is_refused() -> None:
    penalty = ActivationPenalty(llama(), L1(), Cosine(1.0, 0.0, 4))
    with pytest.raises(DataError, match="step is None; give what state_dict"):
        penalty.load_state_dict({})
    with pytest.raises(DataError, match="step is -1"):
        penalty.load_state_dict({"step": -1})
