"""The HyperSparse loss and the training around it."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.hypersparse_art import HyperSparse, hypersparse, hypersparse_art
from training.loops import mlp, sgd, start, train


def test_the_value_is_zero_and_the_gradient_is_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    leaves = [w.clone().requires_grad_(True) for w in weights]
    value = hypersparse(leaves, 0.25)
    value.backward()
    assert abs(float(value.detach())) < 1e-12
    size = torch.cat([w.flatten() for w in weights]).abs()
    s = 0.6584789484624084 / size.sort(descending=True).values[15]
    total = torch.tanh(s * size).sum()
    for w, leaf in zip(weights, leaves, strict=True):
        expected = w.sign() * s * (1 - torch.tanh(s * w.abs()) ** 2) * size.sum() / total
        assert torch.allclose(leaf.grad, expected, rtol=1e-9)


def presses_small_weights_only(penalty: Callable[[Sequence[Tensor], float], Tensor]) -> None:
    weight = torch.linspace(0.01, 1.0, 100)[None].requires_grad_(True)
    penalty([weight], 0.7).backward()  # the border is at 0.31
    grad = weight.grad[0]
    assert float(grad[92]) < 0.15 * float(grad[0]) and float(grad[0]) > 0


def test_large_weights_feel_it_less() -> None:
    def l1(weights: Sequence[Tensor], density: float) -> Tensor:
        return torch.cat([w.abs().flatten() for w in weights]).sum()

    assert_beats_impostor(presses_small_weights_only, hypersparse, l1)


def test_the_penalty_begins_grows_and_ends_with_the_cut() -> None:
    trainer, _ = start(mlp(), "hypersparse-art", total_steps=100)
    run, weights = trainer.run, [s.value().clone().requires_grad_(True) for s in trainer.run.states]
    penalty = HyperSparse(1e-3, 2.0, 10, 0.2)

    def push(step: int) -> float:
        run.step = step
        found = penalty(weights, run)
        return 0.0 if found is None else float(torch.autograd.grad(found, weights)[1].abs().sum())

    assert push(19) == 0.0 and push(20) > 0.0
    assert push(45) == pytest.approx(4 * push(20), rel=1e-4)
    run.memory["cut"] = 46
    assert push(47) == 0.0


def loss_of(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def test_it_cuts_as_soon_as_the_pruned_net_is_good_enough() -> None:
    task = mlp()
    trainer, _ = start(
        task, "hypersparse-art", sparsity=0.8, first=1e-3, growth=1.5, every=5, begin=0.1, end=0.9, total_steps=160,
        data=task.batches, loss=loss_of,
    )  # fmt: skip
    list(train(task, trainer, 160))
    size = sum(s.mask.numel() for s in trainer.run.states)
    assert 16 < trainer.run.memory["cut"] < 144
    assert abs(trainer.sparsity - 0.8) < 1 / size
    assert sum(float(loss_of(task.model, b).detach()) for b in task.batches) / 4 <= trainer.run.memory["dense"]


def test_the_cut_does_not_wait_for_a_loss_that_the_penalty_has_put_out_of_reach() -> None:
    """The net has learned its batches by heart when the penalty begins; pruned it never will have."""
    task = mlp()
    trainer, _ = start(
        task, "hypersparse-art", sgd, sparsity=0.97, first=0.1, growth=1.5, every=4, begin=0.5, end=0.9,
        total_steps=160, data=task.batches, loss=loss_of,
    )  # fmt: skip
    list(train(task, trainer, 160))
    assert trainer.run.memory["cut"] < 110
    assert sum(float(loss_of(task.model, b).detach()) for b in task.batches) / 4 < 1.0  # 2.09 where it waits until 144


def test_without_data_the_cut_comes_at_the_end_of_the_window() -> None:
    task = mlp()
    trainer, _ = start(task, "hypersparse-art", sparsity=0.8, every=5, begin=0.1, end=0.5, total_steps=40)
    sparsity = [trainer.sparsity for _ in train(task, trainer, 40)]
    assert sparsity[18] == 0.0 and sparsity[19] == pytest.approx(0.8, abs=1e-3) and trainer.run.memory["cut"] == 20


def test_other_patterns_are_refused() -> None:
    task = mlp()
    before = [p.detach().clone() for p in task.model.parameters()]
    for name, options in (("hypersparse-art", {}), ("aswl", {}), ("movement-pruning", {"soft": True})):
        with pytest.raises(SparsityError, match="chooses how many weights each layer keeps"):
            start(task, name, pattern="2:4", sparsity=0.5, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    with pytest.raises(SparsityError, match="give >= 0, >= 1 and >= 1"):
        hypersparse_art(growth=0.5)
