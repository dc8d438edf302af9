"""The catalogued check: budget exact, no layer beyond the limit, the ranking that true gradients give, weights back."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.ecoflap import ECoFLaP
from rarefy.allocations.uniform import Uniform
from rarefy.calibration.zeroth_order import zeroth_order
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Allocation
from rarefy.core.site import find_sites
from rarefy.pruning import prune


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def net() -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Ten classes of noisy prototypes and a trained net; its narrow middle layer is what breaks first."""
    torch.manual_seed(1)
    prototypes = 1.2 * torch.randn(10, 32)
    y = torch.randint(0, 10, (600,))
    x = prototypes[y] + torch.randn(600, 32)
    widths = (32, 128, 12, 128, 128, 10)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss(model, (x, y)).backward()
        optimizer.step()
    return model, [(x[i : i + 100], y[i : i + 100]) for i in range(0, 600, 100)]


def spearman(a: Tensor, b: Tensor) -> float:
    ranks = torch.stack([a.argsort().argsort(), b.argsort().argsort()]).double()
    return float(torch.corrcoef(ranks)[0, 1])


def test_layers_rank_as_by_their_gradient_norms_and_nothing_is_touched() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(12, 12), nn.Tanh()) for _ in range(8)), nn.Linear(12, 4))
    with torch.no_grad():
        for i, block in enumerate(model):
            if isinstance(block, nn.Sequential):
                block[0].weight.mul_(1.0 + (i * 5 % 8) / 4)
    batch = (torch.randn(40, 12), torch.randint(0, 4, (40,)))
    sites, before = find_sites(model)[0], {k: v.clone() for k, v in model.state_dict().items()}
    found = zeroth_order(model, sites, [batch], loss, noises=32)
    loss(model, batch).backward()
    norms = torch.stack([site.parameter.grad.norm() for site in sites])
    assert spearman(torch.stack([found[site.name] for site in sites]), norms) > 0.8
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def better_than_uniform_wanda(allocation: Allocation) -> None:
    errors = []
    for spread in (allocation, Uniform()):
        model, batches = net()
        prune(model, "wanda", sparsity=0.7, pattern="layerwise", allocation=spread, data=batches, loss=loss)
        wrong = [(model(x).argmax(1) != y).float().mean() for x, y in batches]
        errors.append(float(torch.stack(wrong).mean()))
    assert errors[0] < 0.8 * errors[1]


def test_ecoflap() -> None:
    assert_beats_impostor(better_than_uniform_wanda, ECoFLaP(), Uniform())


def test_budget_exact_and_no_layer_beyond_the_limit() -> None:
    model, batches = net()
    report = prune(
        model, "magnitude", sparsity=0.6, allocation=ECoFLaP(limit=0.7), data=batches, loss=loss, ignore=["8"]
    )
    assert all(site.sparsity <= 0.7 + 1 / site.size for site in report.sites)
    assert report.sparsity == pytest.approx(0.6, abs=len(report.sites) / sum(s.size for s in report.sites))


def test_an_impossible_limit() -> None:
    with pytest.raises(SparsityError, match="largest sparsity"):
        ECoFLaP(limit=1.0)


def test_a_loss_that_moves_with_no_layer_gives_all_the_same() -> None:
    sites = find_sites(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))[0]
    flat = {site.name: Evidence(site.name, {Need.ZEROTH_ORDER: torch.tensor(0.0)}) for site in sites}
    assert ECoFLaP()(sites, 0.3, flat) == {"0": 0.3, "1": 0.3}
