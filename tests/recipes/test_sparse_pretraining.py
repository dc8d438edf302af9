"""Two steps of pruning and training: nested masks, kept zeros, and the layer-wise loss."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import SparsityError
from rarefy.recipes.sparse_pretraining import sparse_llama_pretraining, square_head
from training.loops import Task, adam, mlp, train


def test_square_head_is_zero_for_equal_states_and_blind_to_scale() -> None:
    theirs = [torch.randn(2, 5, 8), torch.randn(2, 5, 8)]
    ours = [t + 0.1 * torch.randn_like(t) for t in theirs]
    assert float(square_head(theirs, theirs)) == 0.0
    value = square_head(ours, theirs)
    expected = sum(float((a - b).square().mean() / b.square().mean()) for a, b in zip(ours, theirs, strict=True)) / 2
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert torch.allclose(square_head([100 * a for a in ours], [100 * b for b in theirs]), value)
    mask = torch.zeros(2, 5).bool()
    mask[0, 0] = True
    assert torch.allclose(
        square_head(ours, theirs, mask), square_head([a[0, 0] for a in ours], [b[0, 0] for b in theirs])
    )
    with pytest.raises(SparsityError, match="give one each a layer"):
        square_head(ours, theirs[:1])


def trained(seed: int = 0) -> Task:
    task = mlp(seed=seed)
    optimizer = adam(task.model)
    for step in range(80):
        task.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return task


def test_masks_are_nested_and_zeros_survive_the_training() -> None:
    task, zeros = trained(), []

    def pretrain(model: nn.Module, stage: int) -> float:
        zeros.append(model[2].weight.detach() == 0)
        trainer = rarefy.sparse_training(model, adam(model), "static", start="given")
        *_, last = train(task, trainer, 40)
        trainer.detach()
        return last

    stages = sparse_llama_pretraining(
        task.model, pretrain, [x for x, _ in task.batches], sparsities=(0.5, 0.8), ignore=["4"]
    )
    assert [s.asked for s in stages] == [0.5, 0.8]
    assert [round(s.reached, 2) for s in stages] == [0.5, 0.8]
    assert bool((zeros[1] | ~zeros[0]).all()) and int(zeros[1].sum()) > int(zeros[0].sum())
    assert torch.equal(task.model[2].weight.detach() == 0, zeros[1])


def test_training_that_fills_zeros_and_falling_steps_are_refused() -> None:
    task = trained()
    with pytest.raises(SparsityError, match="do not rise"):
        sparse_llama_pretraining(task.model, lambda m, s: None, [], sparsities=(0.7, 0.5))

    def fill(model: nn.Module, stage: int) -> None:
        torch.nn.init.ones_(model[2].weight)

    with pytest.raises(SparsityError, match="train with the zeros fixed"):
        sparse_llama_pretraining(task.model, fill, [x for x, _ in task.batches], ignore=["4"])
