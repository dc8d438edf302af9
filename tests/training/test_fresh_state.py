"""A weight that is grown is, for the optimizer, a weight that begins."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from rarefy.training import fresh_steps, optimizers
from rarefy.training.state import WeightState
from training.loops import mlp, start, train

WAYS: list[tuple[str, dict[str, Any]]] = [
    *[(name, {"weight_decay": decay}) for name in ("Adam", "AdamW") for decay in (0.0, 0.1)],
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"amsgrad": True, "betas": (0.5, 0.9)}),
    ("Adam", {"maximize": True, "weight_decay": 0.1}),
    ("Adam", {"betas": (0.0, 0.9)}),
    ("NAdam", {}),
    ("NAdam", {"weight_decay": 0.1, "momentum_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("NAdam", {"betas": (0.0, 0.9)}),
    ("RAdam", {}),
    ("RAdam", {"weight_decay": 0.1}),
    ("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "betas": (0.8, 0.95)}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1}),
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.1, "weight_decay": 0.1}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("ASGD", {"lambd": 0.5}),
    ("ASGD", {"weight_decay": 0.1}),
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("Adadelta", {}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Rprop", {}),
]
WITHOUT = {
    "LBFGS": "refused",
    "SparseAdam": "takes sparse gradients only",
    "Adafactor": "the step of a weight depends on its row and column",
    "Muon": "the step of a weight depends on the whole matrix",
}


def test_every_optimizer_of_torch_is_among_the_ways() -> None:
    kinds = {name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and issubclass(kind, Optimizer)}
    assert kinds - {"Optimizer"} <= {name for name, _ in WAYS} | set(WITHOUT)


@pytest.mark.parametrize(("name", "more"), WAYS)
def test_a_grown_weight_moves_as_under_a_fresh_optimizer(name: str, more: dict[str, Any]) -> None:
    """One weight of two is grown at step 40: its path is that of an optimizer which started there."""
    torch.manual_seed(0)
    grads = 0.1 * torch.randn(160, dtype=torch.float64)
    grads[40] = 3.0  # which amsgrad never forgets
    old, new = nn.Parameter(torch.zeros(2, dtype=torch.float64)), nn.Parameter(torch.zeros(1, dtype=torch.float64))
    kind: Any = getattr(torch.optim, name)
    first, second = kind([old], lr=0.01, **more), kind([new], lr=0.01, **more)
    index, age = torch.tensor([1]), torch.tensor([0])
    for step, grad in enumerate(grads):
        if step == 40:
            optimizers.forget(first, old, torch.tensor([False, True]))
            old.data[1] = 0.0
        old.grad = torch.tensor([1.0, float(grad)], dtype=torch.float64)
        finish: list[fresh_steps.Finish] = []
        if step >= 40:
            stay, finish = fresh_steps.correct(first, old, index, age)
            index, age = index[stay], age[stay] + 1
            new.grad = torch.tensor([float(grad)], dtype=torch.float64)
            second.step()
        first.step()
        for each in finish:
            each()
        if step >= 40:
            assert float(old[1].detach()) == pytest.approx(float(new[0].detach()), rel=1e-5, abs=1e-6), step


@pytest.mark.parametrize("part", [7, 2**16])
@pytest.mark.parametrize("runtime", ["dense", "sparse"])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "RAdam", "Adagrad"])
def test_in_training_too_the_first_steps_of_grown_weights_are_fresh(
    name: str, runtime: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_steps, "_PART", part)
    task, grown = mlp(), 0
    more = {"lr_decay": 0.1} if name == "Adagrad" else {}
    make: Any = lambda parameters: getattr(torch.optim, name)(parameters, lr=1e-3, **more)  # noqa: E731
    trainer, optimizer = start(
        task, "rigl", lambda model: make(model.parameters()), every=4, runtime=runtime, instead=False
    )
    state = trainer.run.states[1]
    for step in range(13):
        before = state.mask.clone()
        seen: list[torch.Tensor] = []
        task.loss(step).backward()
        hook = optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append(_dense(state, "grad")))
        trainer.step()
        hook.remove()
        fresh = state.mask & ~before
        if step == 0 or not bool(fresh.any()):
            trainer.zero_grad()
            continue
        alone = nn.Parameter(torch.zeros(int(fresh.sum())))
        alone.grad = seen[0][fresh]
        make([alone]).step()
        assert torch.allclose(_dense(state, "data")[fresh], alone.detach(), rtol=1e-3, atol=1e-8)
        grown += int(fresh.sum())
        trainer.zero_grad()
    assert grown > 20


def _dense(state: WeightState, what: str) -> torch.Tensor:
    """(out, in) of the parameter's gradient or values, whether or not only the kept ones exist."""
    found: torch.Tensor = getattr(state.weight.parameter, what).detach()
    return (found if state.packed is None else state.packed.scatter(found)).reshape(state.shape).clone()


class Counting(Optimizer):
    """Keeps a count of its steps that nobody here knows the use of."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-2})

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            memory = self.state[parameter]
            memory["step"] = memory.get("step", 0) + 1
            with torch.no_grad():
                parameter.sub_(parameter.grad / memory["step"])


@pytest.mark.parametrize("name", ["Adafactor", "Counting", "Adam", "Adagrad"])
def test_an_optimizer_whose_count_of_steps_is_not_understood_is_named_once(name: str) -> None:
    task = mlp()
    kind: Any = Counting if name == "Counting" else getattr(torch.optim, name)
    trainer, _ = start(task, "rigl", lambda model: kind(model.parameters()), every=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        list(train(task, trainer, 15))
    said = [str(w.message) for w in caught if "counts the steps" in str(w.message)]
    assert len(said) == (name in ("Adafactor", "Counting")) and all(s.startswith(name) for s in said)


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
    fresh_steps.correct(optimizer, weight, index, torch.zeros(2, dtype=torch.long))
    moved = optimizer.state[weight]["exp_avg"].reshape(-1)
    assert moved[5] == pytest.approx(0.1) and moved[17] == pytest.approx(0.1)
