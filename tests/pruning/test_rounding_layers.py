"""Methods that round while they prune, on the kinds of layers and data that are hard."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.test_every_method import EXACT, FOUND
from rarefy.core.grid import codes_of
from rarefy.core.site import find_sites
from rarefy.pruning import prune

ROUNDING = [entry.id for entry in FOUND if entry not in EXACT]
MORE: dict[str, dict[str, Any]] = {"gqsa": {"passes": 1, "tuning": 1}}


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).float().square().mean()


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    shared = nn.Linear(32, 32)
    if kind == "shared":
        return nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(32, 8))
    if kind == "one layer":
        return nn.Sequential(nn.Linear(32, 16), nn.Tanh())
    model = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))
    return model.to(torch.bfloat16) if kind == "bfloat16" else model


def inputs(kind: str) -> Tensor:
    x = torch.randn(40, 32, generator=torch.Generator().manual_seed(1))
    if kind == "few tokens":
        x = x[:2]
    elif kind == "dead inputs":
        x[:, 3:9] = 0.0
    elif kind == "constant":
        x = torch.ones(40, 32)
    elif kind == "outliers":
        x[:, 5] *= 1e5
    return x.to(torch.bfloat16) if kind == "bfloat16" else x


@pytest.mark.parametrize(
    "kind", ["few tokens", "dead inputs", "constant", "outliers", "bfloat16", "one layer", "shared"]
)
@pytest.mark.parametrize("method", ROUNDING)
def test_what_is_not_kept_is_zero_and_what_is_lies_on_the_grid(method: str, kind: str) -> None:
    model, x = net(kind), inputs(kind)
    report = prune(model, method, sparsity=0.5, data=[x], loss=loss, **MORE.get(method, {}))
    sites = {site.name: site for site in find_sites(model)[0]}
    for told in report.sites:
        site = sites[told.name]
        zeros = int((site.parameter == 0).sum())
        assert zeros == told.zeros == told.size // 2 + told.result["rounded_to_zero"]
        codes = codes_of(site.module)
        assert codes is not None
        assert torch.equal(codes.dequantize().to(site.parameter.dtype), site.as_matrix(site.parameter.detach()))
    assert bool(model(x).isfinite().all())
