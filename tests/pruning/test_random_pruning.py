"""The catalogued check: densities by ERK, masks that know nothing of the weights."""

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.allocations.ranked import Global
from rarefy.core.errors import SparsityError
from rarefy.pruning import prune
from rarefy.scores.snip import Snip


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


def masks_know_nothing(method: str) -> None:
    model = net()
    sizes = [m.weight.detach().abs().flatten().clone() for m in model if isinstance(m, nn.Linear)]
    prune(model, method, sparsity=0.8)
    masks = [(m.weight != 0).float().flatten() for m in model if isinstance(m, nn.Linear)]
    for size, mask in list(zip(sizes, masks, strict=True))[:2]:
        assert abs(float(torch.corrcoef(torch.stack([size, mask]))[0, 1])) < 0.02


def test_random_pruning() -> None:
    assert_beats_impostor(masks_know_nothing, "random-pruning", "magnitude")


def test_densities_are_those_of_erk_and_meet_the_budget() -> None:
    report = prune(net(), "random-pruning", sparsity=0.9)
    assert report.sparsity == pytest.approx(0.9, abs=1e-3)
    raw = {s.name: sum(s.shape) / s.size for s in report.sites}
    free = [s for s in report.sites if s.sparsity > 0]
    factors = [(1 - s.sparsity) / raw[s.name] for s in free]
    assert factors == pytest.approx([factors[0]] * len(factors), rel=1e-2)


def test_the_last_layer_stays_dense_with_erk_plus() -> None:
    report = prune(net(), "random-pruning", sparsity=0.9, allocation=ErdosRenyi(last_dense=True))
    assert report.sites[-1].zeros == 0
    assert report.sparsity == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(SparsityError, match="ERK\\+ keeps the last layer dense"):
        prune(net(), "random-pruning", sparsity=0.99, allocation=ErdosRenyi(last_dense=True))


def test_densities_may_come_from_a_score_and_the_mask_is_shuffled() -> None:
    data = [(torch.randn(32, 300), torch.randint(0, 10, (32,)))]
    call = {"sparsity": 0.8, "data": data, "loss": lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1])}
    shuffled, scored = net(), net()
    one = prune(shuffled, "random-pruning", allocation=Global(Snip()), **call)
    two = prune(scored, "snip", **call)
    assert [s.zeros for s in one.sites] == [s.zeros for s in two.sites]
    assert not torch.equal(shuffled[0].weight != 0, scored[0].weight != 0)
