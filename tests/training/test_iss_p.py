"""Soft shrinkage: exactly the factor, nothing zero before the cut, and late bloomers survive."""

from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.iss_p import iss_p
from rarefy.training.method import SparseMethod
from rarefy.training.static import static
from training.loops import mlp, sgd, start, train


def test_the_lowest_shrink_by_the_factor_and_the_others_stay() -> None:
    task = mlp()
    trainer, optimizer = start(task, "iss-p", sgd, sparsity=0.9, factor=0.9, total_steps=40)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # the optimizer moves nothing: what changes is the shrinkage
    state = trainer.run.states[1]
    before = state.value().clone()
    list(train(task, trainer, 1))
    changed = before != state.value()
    kept = before.abs() >= before.abs().flatten().sort().values[-state.count]
    assert torch.equal(changed, ~kept)
    assert torch.equal(state.value()[~kept], before[~kept] * 0.9)


def test_nothing_is_zero_before_the_cut_and_the_count_is_exact_after_it() -> None:
    task = mlp()
    trainer, _ = start(task, "iss-p", sparsity=0.9, end=0.5, total_steps=20)
    zeros = [int((trainer.run.states[1].value() == 0).sum()) for _ in train(task, trainer, 20)]
    state = trainer.run.states[1]
    assert zeros[8] == 0 and zeros[9] == zeros[19] == state.mask.numel() - state.count


def keeps_the_late_bloomer(method: SparseMethod) -> None:
    """Input 0 alone matters, and its weight starts as the smallest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 16, generator=generator)
    model = nn.Linear(16, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.full((1, 16), 0.3))
        model.weight[0, 0] = 0.01
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.75, total_steps=60)
    for _ in range(60):
        (model(x)[:, 0] - 2.0 * x[:, 0]).square().mean().backward()
        trainer.step()
        trainer.zero_grad()
    assert abs(float(model.weight[0, 0].detach()) - 2.0) < 0.1


def test_a_small_weight_that_matters_comes_back() -> None:
    assert_beats_impostor(keeps_the_late_bloomer, iss_p(), static(start="magnitude"))


@pytest.mark.parametrize("factor", [1.0, -0.1])
def test_factors_that_do_not_shrink_are_refused(factor: Any) -> None:
    with pytest.raises(SparsityError, match="does not shrink"):
        iss_p(factor=factor)
