"""Convolutions in the channels-last format train as those in the contiguous one do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy

METHODS: dict[str, dict[str, Any]] = {
    "powerpropagation": {"alpha": 2.0, "every": 3},
    "nm-gradient-decay": {"scaled": True},
    "deep-rewiring": {},
    "top-kast": {"every": 3},
    "irrelevant-weight-decay": {},
    "sr-ste": {},
    "rigl": {"every": 3},
    "set": {"every": 3},
}
FIXED = ("nm-gradient-decay", "sr-ste")  # N:M says how sparse
STEPS = 8


def net(form: torch.memory_format) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*layers).to(memory_format=form)


def trained(form: torch.memory_format, method: str) -> list[Tensor]:
    model = net(form)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    settings: dict[str, Any] = {} if method in FIXED else {"sparsity": 0.5}
    ignore = ["2", "3"] if method in FIXED else []
    trainer = rarefy.sparse_training(
        model, optimizer, method, total_steps=STEPS, ignore=ignore, **settings, **METHODS[method]
    )
    x = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(1)).to(memory_format=form)
    for _ in range(STEPS):
        model(x).square().mean().backward()
        trainer.step()
        optimizer.zero_grad()
    return [p.detach().contiguous() for p in model.parameters()]


@pytest.mark.parametrize("method", METHODS)
def test_channels_last_is_contiguous(method: str) -> None:
    ours, other = (trained(form, method) for form in (torch.channels_last, torch.contiguous_format))
    for a, b in zip(ours, other, strict=True):
        assert torch.equal(a == 0, b == 0)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_step_of_powerpropagation_in_channels_last_is_its_formula() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False)).to(memory_format=torch.channels_last)
    weight = model[0].weight
    first = weight.detach().sign() * weight.detach().abs().sqrt()  # w = v |v|
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = rarefy.sparse_training(
        model, optimizer, "powerpropagation", sparsity=0.5, alpha=2.0, total_steps=1000, every=100
    )
    model(torch.randn(4, 4, 6, 6)).square().mean().backward()
    assert weight.grad is not None
    then = first - 0.1 * weight.grad * 2 * first.abs()
    trainer.step()
    torch.testing.assert_close(weight.detach(), then * then.abs(), rtol=0, atol=1e-6)
