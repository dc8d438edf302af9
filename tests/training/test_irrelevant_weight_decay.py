"""Decay where the loss does not care, and rounds that stop where the loss does."""

import math

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError
from rarefy.training.irrelevant_weight_decay import DecayIrrelevant, irrelevant_weight_decay
from rarefy.training.trial_loss import loss_with
from training.loops import Task, mlp, start, train


def test_without_a_gate_it_is_plain_l2_decay_bit_for_bit() -> None:
    def run(decay: float, **options: float) -> list[torch.Tensor]:
        task = mlp()
        optimizer = torch.optim.SGD([p for p in task.model.parameters() if p.dim() == 2], lr=0.1, weight_decay=decay)
        trainer = rarefy.sparse_training(
            task.model,
            optimizer,
            "irrelevant-weight-decay",
            sparsity=0.5,
            begin=0.9,
            end=1.0,
            total_steps=100,
            **options,
        )
        list(train(task, trainer, 10))
        return [p.detach() for p in task.model.parameters()]

    plain, ours = run(0.03, strength=0.0), run(0.0, strength=0.03, scale=math.inf)
    assert all(torch.equal(a, b) for a, b in zip(plain, ours, strict=True))


def shrinks_the_irrelevant(transform: DecayIrrelevant) -> None:
    state = start(mlp(), "static", sparsity=0.0)[0].run.states[1]
    weight, grad = torch.ones(state.weight.shape), torch.zeros(state.weight.shape)
    grad[:, :8] = 1.0  # an eighth of the weights matters
    push = transform.on_grad(grad, weight, state) - grad
    relevant, irrelevant = push[:, :8], push[:, 8:]
    assert torch.allclose(irrelevant, torch.full_like(irrelevant, 0.01))
    assert float(irrelevant.min()) > 10 * float(relevant.max())


def test_equal_weights_shrink_by_what_they_matter() -> None:
    assert_beats_impostor(shrinks_the_irrelevant, DecayIrrelevant(0.01), DecayIrrelevant(0.01, math.inf))


def regression(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(256, 32, generator=generator)
    y = x[:, :4].sum(1, keepdim=True)
    torch.manual_seed(seed)
    return Task(nn.Linear(32, 1), [(x, y)])


def mse(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean() + 0.01


def rounds(asked: float, tolerance: float) -> tuple[list[int], torch.Tensor, float, float]:
    task = regression()
    optimizer = torch.optim.SGD(task.model.parameters(), lr=0.05)
    trainer = rarefy.sparse_training(
        task.model, optimizer, "irrelevant-weight-decay", sparsity=asked, tolerance=tolerance, every=10, begin=0.0,
        end=1.0, total_steps=200, data=task.batches, loss=mse,
    )  # fmt: skip
    kept, before = [], trainer.run.states[0].mask.clone()
    for _ in range(200):
        mse(task.model, task.batches[0]).backward()
        trainer.step()
        trainer.zero_grad()
        mask = trainer.run.states[0].mask
        assert bool((before | ~mask).all())  # pruned weights stay zero
        assert bool((task.model.weight.detach()[~mask] == 0).all())
        before = mask.clone()
        kept.append(int(mask.sum()))
    return kept, before, float(mse(task.model, task.batches[0])), trainer.sparsity


def test_rounds_prune_what_the_loss_tolerates_and_no_more() -> None:
    kept, mask, loss, _ = rounds(0.95, 0.05)
    assert mask.nonzero()[:, 1].tolist() == [0, 1, 2, 3]  # 0.95 would leave two of the four that matter
    assert kept[8] == 32 and kept[-1] == 4 and loss < 0.011


def test_rounds_end_at_the_asked_sparsity() -> None:
    kept, _, _, sparsity = rounds(0.5, 0.05)
    assert sparsity == 0.5 and kept[-1] == 16


def test_looking_at_masks_puts_everything_back() -> None:
    task = mlp()
    trainer, _ = start(task, "static", sparsity=0.0, data=task.batches, loss=lambda m, b: m(b[0]).square().mean())
    before = [p.detach().clone() for p in task.model.parameters()]
    none = [torch.zeros_like(s.mask) for s in trainer.run.states]
    assert loss_with(trainer.run, none) != loss_with(trainer.run, [s.mask for s in trainer.run.states])
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert task.model.training


def test_bad_options_and_missing_data_are_refused() -> None:
    task = mlp()
    trainer, _ = start(task, "irrelevant-weight-decay", tolerance=0.01, every=2, begin=0.0)
    with pytest.raises(DataError, match="give data=batches and loss="):
        list(train(task, trainer, 4))
    with pytest.raises(SparsityError, match="is negative"):
        irrelevant_weight_decay(tolerance=-1.0)
    with pytest.raises(SparsityError, match="give >= 0 and > 0"):
        irrelevant_weight_decay(scale=0.0)
