import math
from typing import Any

import pytest
import torch
from torch import nn

from rarefy.calibration import collect_gradients
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import find_sites

BOTH = frozenset({Need.GRADIENT, Need.SQUARED_GRADIENT})


def square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def test_mean_and_mean_square_over_batches() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2))
    batches = [torch.randn(2, 2, 3, 3) for _ in range(3)]
    sites = find_sites(model)[0]
    found = collect_gradients(model, sites, batches, square, BOTH)
    by_hand = []
    for batch in batches:
        model.zero_grad()
        square(model, batch).backward()
        by_hand.append({site.name: site.parameter.grad.reshape(site.shape).clone() for site in sites})
    for site in sites:
        grads = torch.stack([grad[site.name] for grad in by_hand])
        torch.testing.assert_close(found[site.name][Need.GRADIENT], grads.mean(0))
        torch.testing.assert_close(found[site.name][Need.SQUARED_GRADIENT], grads.square().mean(0))


def test_no_gradient_is_left_behind_and_modes_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    model.train()
    model[1].eval()
    sites, x = find_sites(model)[0], [torch.randn(3, 4)]
    first = collect_gradients(model, sites, x, square, BOTH)
    again = collect_gradients(model, sites, x, square, BOTH)
    assert torch.equal(first["0"][Need.GRADIENT], again["0"][Need.GRADIENT])
    assert [m.training for m in model] == [True, False, True]
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_off() -> None:
    model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 2))
    model.train()
    sites, x = find_sites(model)[0], [torch.randn(3, 16)]
    trained = collect_gradients(model, sites, x, square, BOTH)["0"][Need.GRADIENT]
    model.eval()
    torch.testing.assert_close(trained, collect_gradients(model, sites, x, square, BOTH)["0"][Need.GRADIENT])


def test_a_frozen_model_has_gradients_too_and_stays_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).requires_grad_(False)
    found = collect_gradients(model, find_sites(model)[0], [torch.randn(3, 4)], square, BOTH)
    assert found["0"][Need.GRADIENT].abs().sum() > 0
    assert not any(p.requires_grad for p in model.parameters())


def bad_loss(value: Any) -> Any:
    return lambda model, batch: value


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (None, "take a backward pass; give loss="),
        (lambda m, b: m(b), r"(?s)data\[0\]: loss gave .*one finite number"),
        (lambda m, b: m(b).sum() * math.nan, r"data\[0\]: loss gave"),
        (bad_loss(3.0), r"data\[0\]: loss gave 3\.0"),
        (bad_loss(torch.tensor(3.0)), r"0: the loss of data\[0\] does not depend on this layer"),
        (lambda m, b: m[0](b).sum(), r"1: the loss of data\[0\] does not depend on this layer"),
    ],
)
def test_a_loss_that_cannot_be_used(loss: Any, why: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(DataError, match=why):
        collect_gradients(model, find_sites(model)[0], [torch.randn(3, 4)], loss, BOTH)
