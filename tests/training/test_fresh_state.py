"""A weight that is grown is, for the optimizer, a weight that begins."""

import pytest
import torch
from torch import nn

from rarefy.training import optimizers
from training.loops import mlp, start, train


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_moves_a_grown_weight_as_a_fresh_adam_does(kind: type, decay: float) -> None:
    """One weight of two is grown at step 40: its path is that of an optimizer which started there."""
    torch.manual_seed(0)
    grads = torch.randn(120)
    old, new = nn.Parameter(torch.zeros(2, dtype=torch.float64)), nn.Parameter(torch.zeros(1, dtype=torch.float64))
    first = kind([old], lr=0.01, weight_decay=decay)
    second = kind([new], lr=0.01, weight_decay=decay)
    index, age = torch.tensor([1]), torch.tensor([0])
    for step, grad in enumerate(grads):
        if step == 40:
            optimizers.forget(first, old, torch.tensor([False, True]))
            old.data[1] = 0.0
        old.grad = torch.tensor([1.0, float(grad)], dtype=torch.float64)
        if step >= 40:
            stay = optimizers.correct_young(first, old, index, age)
            assert bool(stay.all())
            age = age + 1
            new.grad = torch.tensor([float(grad)], dtype=torch.float64)
            second.step()
        first.step()
        if step >= 40:
            assert float(old[1].detach()) == pytest.approx(float(new[0].detach()), rel=1e-9)


def test_without_the_correction_the_first_step_would_be_three_times_too_long() -> None:
    """What the correction is for; fails as soon as torch changes how Adam counts."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    for _ in range(5000):
        weight.grad = torch.ones(1)
        optimizer.step()
    optimizers.forget(optimizer, weight, torch.tensor([True]))
    before = float(weight.detach())
    optimizer.step()
    assert before - float(weight.detach()) == pytest.approx(0.01 * 0.1 / 0.001**0.5, rel=0.02)


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Rprop", "Adadelta", "Adamax"]
)
def test_no_memory_of_a_dropped_weight_is_left(name: str) -> None:
    task = mlp()
    more = {"momentum": 0.9} if name == "SGD" else {}
    trainer, made = start(task, "rigl", lambda m: getattr(torch.optim, name)(m.parameters(), lr=1e-3, **more), every=5)
    for _ in train(task, trainer, 20):
        for state in trainer.run.states:
            for key, memory in optimizers.entries(made, state.weight.parameter):
                dropped = state.weight.as_matrix(memory)[~state.mask]
                fresh = {"sum": 0.0, "step_size": 1e-3}.get(key, 0.0)
                if name == "Rprop" and key == "step_size":
                    continue  # a step size that a zero gradient does not use
                slack = 1e-7 if key == "exp_inf" else 0.0  # Adamax adds its eps to it
                assert bool(((dropped - fresh).abs() <= slack).all()), key


def test_moments_that_torch_keeps_in_other_strides_are_corrected_too() -> None:
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    index = torch.tensor([5, 17])
    optimizers.forget(optimizer, weight, torch.zeros_like(weight, dtype=torch.bool).view_as(weight).reshape(4, 3, 2, 2))
    weight.grad = torch.ones_like(weight)
    optimizers.correct_young(optimizer, weight, index, torch.zeros(2, dtype=torch.long))
    moved = optimizer.state[weight]["exp_avg"].reshape(-1)
    assert moved[5] == pytest.approx(0.1) and moved[17] == pytest.approx(0.1)
