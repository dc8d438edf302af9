"""Functions are found, zeros stay, and the search is late acceptance."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import DataError, ModelError, UnknownNameError
from rarefy.training.activation_search import UNARY, Scaled, late_acceptance, replace_activations
from rarefy.training.safs import safs


def test_scales_of_one_are_the_function_itself() -> None:
    x = torch.linspace(-3, 3, 101)
    for name, function in UNARY.items():
        module = Scaled(name)
        before = module(x)
        module.learn()
        assert torch.equal(before, function(x)) and torch.equal(module(x), before)
        assert bool(before.isfinite().all())
    assert [p.requires_grad for p in module.parameters()] == [True, True]
    with pytest.raises(UnknownNameError, match="activation"):
        Scaled("rely")


def test_late_acceptance_compares_with_the_past() -> None:
    """A fixed sequence of losses: worse ones are taken while they beat the loss of `length` rounds ago."""
    losses = iter([10.0, 12.0, 9.0, 9.5, 9.2, 11.0])
    seen: list[tuple[str, ...]] = []

    def loss_of(setting: tuple[str, ...]) -> float:
        seen.append(setting)
        return next(losses)

    found = late_acceptance(["a"], loss_of, choices=["a", "b", "c", "d", "e", "f"], rounds=5, length=2, seed=1)
    # history [10, 10]; 12 refused -> [10, 10]; 9 taken -> [10, 9]; 9.5 <= 10 taken -> [9.5, 9];
    # 9.2 <= 9.5 (now) taken -> [9.5, 9.2]; 11 refused
    assert found.tried == (10.0, 12.0, 9.0, 9.5, 9.2, 11.0)
    assert found.loss == 9.0 and found.setting == seen[2]
    assert seen[4][0] != seen[3][0] and seen[5][0] != seen[4][0]


def task() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    """A target that is even in the input: a few square units fit it, a few ReLU units do not."""
    torch.manual_seed(0)
    x = torch.rand(256, 4) * 8 - 4
    y = (x[:, :1].square() + x[:, 1:2].square()) / 8.0
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    rarefy.prune(model, "magnitude", sparsity=0.5)
    return model, x, y


def test_the_found_setting_beats_relu_and_the_zeros_stay() -> None:
    model, x, y = task()
    masks = [model[i].weight.detach() != 0 for i in (0, 2)]

    def train(tried: nn.Module, lr: float) -> None:
        optimizer = torch.optim.Adam([p for p in tried.parameters() if p.requires_grad], lr=lr)
        trainer = rarefy.sparse_training(tried, optimizer, "static", start="given")
        for _ in range(60):
            (tried(x[:128]) - y[:128]).square().mean().backward()
            trainer.step()
            trainer.zero_grad()
        trainer.detach()

    @torch.no_grad()
    def validate(tried: nn.Module) -> float:
        return float((tried(x[128:]) - y[128:]).square().mean())

    import copy

    plain = copy.deepcopy(model)
    train(plain, 0.05)
    found = safs(model, train, validate, settings=[0.05, 0.01], choices=["relu", "tanh", "sin", "square"], rounds=4)
    assert found.loss < 0.8 * validate(plain)
    assert validate(model) == pytest.approx(found.loss) and isinstance(model[1], Scaled)
    assert found.activations == {"1": model[1].name} and model[1].name != "relu"
    assert float(model[1].alpha.detach()) != 1.0
    assert all(bool((model[i].weight[~m] == 0).all()) for i, m in zip((0, 2), masks, strict=True))
    assert len(found.settings) == 2 and found.loss == min(loss for _, loss in found.settings)


def test_training_that_fills_zeros_is_refused_and_the_model_stays() -> None:
    model, _, _ = task()
    before = model[0].weight.detach().clone()

    def fill(tried: nn.Module, lr: float) -> None:
        torch.nn.init.ones_(tried[0].weight)

    with pytest.raises(ModelError, match="train it with its zeros fixed"):
        safs(model, fill, lambda m: 0.0, settings=[0.1])
    assert torch.equal(model[0].weight, before) and type(model[1]) is nn.ReLU
    with pytest.raises(DataError, match="no settings"):
        safs(model, fill, lambda m: 0.0, settings=[])
    with pytest.raises(ModelError, match="no activation is a module"):
        replace_activations(nn.Linear(2, 2))
