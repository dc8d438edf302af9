"""Weights made of bits: the formula, the zeros that appear, and a payload in the bits that do not matter."""

import io

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, ModelError, SparsityError
from rarefy.training.bit_payload import capacity, store, stored
from rarefy.training.bitwise_training import (
    Bits,
    bit_report,
    bitwise_training,
    freeze_bits,
    integers,
    layers_of,
    signed,
)
from training.loops import convnet, mlp


def adam(model: nn.Module, lr: float = 2e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=lr)


def train(task, optimizer, steps: int, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        loss = task.loss(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_the_weight_and_the_gradients_are_the_formulas() -> None:
    bits = torch.tensor([[True, False], [False, True], [True, True], [False, True]])  # 1 + 4, -(2 + 4)
    assert signed(bits).tolist() == [5, -6]
    layer = Bits(bits[:1], 0.5, torch.float32)
    latent = (bits[1:].float() - 0.5).requires_grad_(True)
    weight = layer(latent)
    assert weight.tolist() == [2.5, -3.0]
    weight.backward(torch.tensor([1.0, 10.0]))
    assert latent.grad.tolist() == [[1.0, -10.0], [2.0, -20.0], [-5.0, -60.0]]


def test_weights_are_integers_of_n_bits_with_the_spread_of_he_and_train() -> None:
    task = mlp()
    optimizer = adam(task.model)
    bitwise_training(task.model, optimizer, bits=5)
    for module, bits in layers_of(task.model).values():
        assert float(module.weight.detach().std()) == pytest.approx((2 / module.in_features) ** 0.5, rel=1e-3)
        assert int(integers(module, bits).abs().max()) == 15
    losses = train(task, optimizer, 60)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    for module, bits in layers_of(task.model).values():
        whole = (module.weight.detach() / bits.scale).round()
        assert torch.equal(whole * bits.scale, module.weight) and float(whole.abs().max()) <= 15
    assert len(optimizer.param_groups[0]["params"]) == 6


class Coarse(nn.Module):
    """The impostor: a latent weight rounded to the same integers, the gradient straight through."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.scale = (2 / layer.in_features) ** 0.5 / 4.3
        self.latent, self.bias = nn.Parameter(torch.randn_like(layer.weight) * 4.3), layer.bias

    def integers(self) -> Tensor:
        return self.latent.detach().round().clamp(-7, 7)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.latent + (self.integers() - self.latent).detach()
        return nn.functional.linear(x, weight * self.scale, self.bias)


def zeros_appear(rounded: bool) -> None:
    """More than the 1 / 8 of four random bits are zero after training, and more than at the start."""
    task = mlp()
    if rounded:
        torch.manual_seed(0)
        for k in (0, 2, 4):
            task.model[k] = Coarse(task.model[k])

        def share() -> float:
            found = torch.cat([task.model[k].integers().flatten() for k in (0, 2, 4)])
            return float((found == 0).float().mean())

        optimizer = adam(task.model, 0.1)
    else:
        optimizer = adam(task.model, 0.1)
        bitwise_training(task.model, optimizer, bits=4)

        def share() -> float:
            return bit_report(task.model).zeros

    before = share()
    train(task, optimizer, 150)
    assert share() > max(0.125, before) * 1.2


def test_zeros_appear_by_themselves_where_rounding_makes_none() -> None:
    assert_beats_impostor(zeros_appear, False, True)


def test_a_payload_in_the_untrained_bits_comes_back_bit_by_bit() -> None:
    task = mlp()
    bitwise_training(task.model, adam(task.model), bits=8, trained=3)
    size = 64 * 16 + 64 * 64 + 64 * 8
    report = bit_report(task.model)
    assert report.free_bits == 5 * size and capacity(task.model) == 5 * size // 8
    payload = bytes(range(256)) * (capacity(task.model) // 256)
    top = [integers(*pair).abs() >> 5 for pair in layers_of(task.model).values()]
    store(task.model, payload)
    assert stored(task.model, len(payload)) == payload
    assert all(
        torch.equal(a, integers(*p).abs() >> 5) for a, p in zip(top, layers_of(task.model).values(), strict=True)
    )
    with pytest.raises(DataError, match="hold 3520"):
        store(task.model, bytes(capacity(task.model) + 1))
    store(task.model, b"")
    assert stored(task.model, 3) == payload[:3]


def test_convolutions_resume_bit_for_bit_and_become_plain() -> None:
    whole, half, again = convnet(), convnet(), convnet(3)
    optimizers = [adam(t.model) for t in (whole, half, again)]
    for task, optimizer, seed in zip((whole, half, again), optimizers, (0, 0, 5), strict=True):
        bitwise_training(task.model, optimizer, bits=6, trained=4, seed=seed)
    expected = train(whole, optimizers[0], 12)
    found = train(half, optimizers[1], 5)
    stream = io.BytesIO()
    torch.save([half.model.state_dict(), optimizers[1].state_dict()], stream)
    stream.seek(0)
    states = torch.load(stream, weights_only=True)
    again.model.load_state_dict(states[0])
    optimizers[2].load_state_dict(states[1])
    assert found + train(again, optimizers[2], 7, 5) == expected
    again.model.eval()
    y = again.model(again.batches[0][0])
    assert freeze_bits(again.model) == ["0", "3", "7"]
    assert set(again.model.state_dict()) == set(convnet().model.state_dict())
    assert torch.equal(again.model(again.batches[0][0]), y)


def test_bad_input() -> None:
    for options in ({"bits": 1}, {"trained": 9}, {"spread": 0.0}):
        task = mlp()
        with pytest.raises(SparsityError, match="bitwise-training: bits="):
            bitwise_training(task.model, adam(task.model), **options)
    with pytest.raises(ModelError, match="no layer whose weights are bits"):
        bit_report(mlp().model)
    task = mlp()
    with pytest.raises(ModelError, match="none of the optimizer's groups"):
        bitwise_training(task.model, torch.optim.SGD(task.model[2].parameters(), lr=0.1))
    bitwise_training(task.model, adam(task.model), trained=3)
    with pytest.raises(DataError, match="stored: 9999"):
        stored(task.model, 9999)
