"""Singular vectors in turns: what moves, what stays bit for bit, and what a low-rank pair cannot reach."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError, SparsityError
from rarefy.training.spectral import SpectralLinear
from rarefy.training.sst import SpectralTrainer, chances, merge_sst, sst


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


def start(model: nn.Module, **options: Any) -> SpectralTrainer:
    return sst(model, torch.optim.Adam(model.parameters(), lr=1e-2), **{"rank": 3, "every": 4, **options})


def steps(model: nn.Module, trainer: SpectralTrainer, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        generator = torch.Generator().manual_seed(trainer.steps)
        x = torch.randn(16, 16, generator=generator)
        loss = nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))
        loss.backward()
        trainer.step()
        trainer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_the_gradients_are_those_of_the_product_the_columns_without_their_value() -> None:
    torch.manual_seed(0)
    layer = SpectralLinear(torch.randn(5, 6).double(), None, 2)
    layer.train_columns(torch.tensor([3, 0]))
    x, dy = torch.randn(7, 6).double().requires_grad_(True), torch.randn(7, 5).double()
    layer(x).backward(dy)
    u, v = layer.columns()
    g = dy.t() @ x.detach()
    assert torch.allclose(layer(x), x @ layer.dense_weight().t())
    assert torch.allclose(layer.s.grad, (u * (g @ v)).sum(0))
    assert torch.allclose(layer.u.grad, g @ v[:, [3, 0]]) and torch.allclose(layer.v.grad, g.t() @ u[:, [3, 0]])
    assert torch.allclose(x.grad, dy @ layer.dense_weight())


def only_the_chosen_columns_move(rank: int) -> None:
    model = net()
    trainer = start(model, rank=rank, ignore=["4"])
    layer, before = model[2], model[2].columns()
    values, chosen = layer.s.detach().clone(), sorted(layer.order[:rank].tolist())
    steps(model, trainer, 4)
    assert bool((layer.s != values).all()) and bool((layer.s >= 0).all())
    for old, new in zip(before, layer.columns(), strict=True):
        moved = (old != new).any(0).nonzero().flatten().tolist()  # the others are the same bit for bit
        assert moved == chosen and len(moved) == 3
        assert torch.allclose(new[:, moved].norm(dim=0), torch.ones(3), atol=1e-6)
    assert sorted(layer.order[:rank].tolist()) != chosen


def test_a_turn_changes_the_chosen_columns_and_all_values() -> None:
    assert_beats_impostor(only_the_chosen_columns_move, 3, 16)  # the impostor trains all columns


def test_a_new_decomposition_keeps_the_weight_and_makes_the_columns_orthogonal() -> None:
    model = net()
    trainer = start(model, every=5, turns=1000)
    steps(model, trainer, 40)
    layer = model[2]
    u, _ = layer.columns()
    assert float((u.t() @ u - torch.eye(16)).abs().max()) > 1e-3, "training has not disturbed anything"
    weight = layer.dense_weight()
    layer.orthogonalise()
    assert torch.allclose(layer.dense_weight(), weight, atol=1e-5)
    for columns in layer.columns():
        assert torch.allclose(columns.t() @ columns, torch.eye(16), atol=1e-6)


def test_the_optimizer_keeps_state_for_the_trained_columns_and_all_values_only() -> None:
    model = net()
    trainer = start(model)
    steps(model, trainer, 6)
    state = trainer.optimizer.state
    sizes = [state[p]["exp_avg"].numel() for p in (model[2].s, model[2].u, model[2].v)]
    assert sum(sizes) == 3 * (24 + 16) + 16
    assert int(state[model[2].u]["step"]) == 2 and int(state[model[2].s]["step"]) == 6
    assert sum(m["exp_avg"].numel() for m in state.values()) == trainer.trained + 24 + 16 + 4
    assert len(trainer.optimizer.param_groups[0]["params"]) == 3 * 3 + 3


def test_after_a_round_the_optimizer_forgets_and_its_rate_warms_up() -> None:
    model = net()
    trainer = start(model, turns=2, warmup=3)
    steps(model, trainer, 8)
    assert model[2].s not in trainer.optimizer.state
    rates: list[float] = []
    trainer.optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    steps(model, trainer, 5)
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert trainer.optimizer.param_groups[0]["lr"] == 0.01


def test_half_of_the_chances_go_by_size_and_the_columns_differ() -> None:
    assert torch.allclose(chances(torch.tensor([3.0, 1.0, 0.0, 0.0])), torch.tensor([0.5, 0.25, 0.125, 0.125]).double())
    assert torch.allclose(chances(torch.zeros(4)), torch.full((4,), 0.25).double())
    trainer = start(net())
    assert all(len(set(layer.order.tolist())) == len(layer.s) for layer in trainer.layers.values())


class LowRank(nn.Module):
    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().clone())
        self.b, self.a = nn.Parameter(torch.zeros(32, rank)), nn.Parameter(torch.randn(rank, 32) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.weight + self.b @ self.a).t()


def leaves_little(made: tuple[nn.Module, list]) -> None:
    """Regression of a full-rank matrix from random weights with rank 4 at a time."""
    model, hooks = made
    goal = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    hooks and hooks[0](model, optimizer)
    for step in range(480):
        x = torch.randn(32, 32, generator=torch.Generator().manual_seed(step))
        (model(x) - x @ goal.t()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float((model(torch.eye(32)).t() - goal).detach().square().sum()) / 32 < 0.3


def test_turns_reach_a_full_rank_target_and_a_low_rank_change_does_not() -> None:
    def spectral(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sst(model, optimizer, rank=4, every=10, warmup=2)

    def top_only(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        sst(model, optimizer, rank=4, every=10_000)

    def made() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 32, bias=False))

    adapter = nn.Sequential(LowRank(made()[0], 4))
    assert_beats_impostor(leaves_little, (made(), [spectral]), (adapter, []))
    assert_beats_impostor(leaves_little, (made(), [spectral]), (made(), [top_only]))


def test_resumed_bit_for_bit_and_merged() -> None:
    whole, half, again = net(), net(), net(7)
    expected = steps(whole, start(whole, turns=3), 20)
    trainer = start(half, turns=3)
    found = steps(half, trainer, 11)
    stream = io.BytesIO()
    torch.save([half.state_dict(), trainer.optimizer.state_dict(), trainer.state_dict()], stream)
    stream.seek(0)
    states = torch.load(stream, weights_only=True)
    trainer = start(again, turns=3)
    again.load_state_dict(states[0])
    trainer.optimizer.load_state_dict(states[1])
    trainer.load_state_dict(states[2])
    assert found + steps(again, trainer, 9) == expected
    with pytest.raises(ModelError, match="the saved run has"):
        start(net()).load_state_dict(states[2])
    x, y = torch.randn(3, 16), again(torch.ones(3, 16))
    assert merge_sst(again) == ["0", "2", "4"] and type(again[0]) is nn.Linear
    assert torch.allclose(again(torch.ones(3, 16)), y, atol=1e-5) and again(x).shape == (3, 4)


def test_bad_input() -> None:
    with pytest.raises(SparsityError, match="rank 9"):
        start(net(), rank=9)
    with pytest.raises(SparsityError, match="every=0"):
        start(net(), every=0)
    model = net()
    with pytest.raises(ModelError, match="weight of 0 is in none"):
        sst(model, torch.optim.SGD(model[2].parameters(), lr=0.1), rank=2)
    assert type(model[2]) is nn.Linear
