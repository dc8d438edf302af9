"""The catalogued check: a net that learnt the digits 0 to 4 is pruned in four ways and moved to the digits 5 to 9."""

import copy

import pytest
import torch
from torch import Tensor, nn

import rarefy
from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.held_zeros import fit, zeros_of
from rarefy.analysis.transfer_study import Task, full_transfer, linear_transfer, transfer_study
from rarefy.core.errors import DataError


def part(count: int, seed: int, first: int) -> tuple[Tensor, Tensor]:
    """The digits `first` to `first` + 4, called 0 to 4."""
    x, y = digits(2 * count, seed)
    some = (y >= first) & (y < first + 5)
    return x[some], y[some] - first


UPSTREAM, TASK = part(600, 0, 0), Task("digits 5-9", part(400, 1, 5), part(600, 2, 5), 5)
BATCHES = list(zip(UPSTREAM[0].split(60), UPSTREAM[1].split(60), strict=True))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """A backbone and its head for the digits 0 to 4."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
    model = nn.Sequential(backbone, nn.Linear(32, 5))
    fit(model, BATCHES, loss, epochs=10, rate=5e-3)
    return model


@pytest.fixture(scope="module")
def backbones(trained: nn.Sequential) -> dict[str, nn.Module]:
    """At 90 %: by size, by the surgeon with the block Fisher, by size with training on, and at random."""
    pruned = {}
    for name, given in {
        "magnitude": {},
        "woodfisher": {"data": BATCHES, "loss": loss, "block": None},
        "gradual": {},
        "random": {},
    }.items():
        model = copy.deepcopy(trained)
        method = "magnitude" if name == "gradual" else name
        for sparsity in (0.5, 0.75, 0.9) if name == "gradual" else (0.9,):
            rarefy.prune(model, method, sparsity=sparsity, ignore=["1"], **given)
            if name == "gradual":
                fit(model, BATCHES, loss, epochs=3)
        pruned[name] = model[0]
    return pruned


def test_the_table(trained: nn.Sequential, backbones: dict[str, nn.Module]) -> None:
    before = copy.deepcopy(backbones["gradual"].state_dict())
    rows, again = (transfer_study(trained[0], backbones, [TASK]) for _ in range(2))
    assert [row.name for row in rows] == ["dense", "magnitude", "woodfisher", "gradual", "random"]
    assert rows[0].linear_increase == 0.0 and rows[0].full_increase == 0.0 and rows[0].sparsity == 0.0
    for row, other in zip(rows, again, strict=True):
        assert row.flaws == () and row.sparsity == pytest.approx(0.0 if row.name == "dense" else 0.9, abs=1e-3)
        assert row.linear_increase == other.linear_increase and row.full_increase == other.full_increase
    by_name = {row.name: row for row in rows}
    gap = by_name["gradual"].linear[0].error - rows[0].linear[0].error
    assert by_name["gradual"].linear_increase == pytest.approx(gap / rows[0].linear[0].error)
    assert by_name["gradual"].linear_increase < by_name["random"].linear_increase
    assert all(torch.equal(value, before[name]) for name, value in backbones["gradual"].state_dict().items())


def leaking(model: nn.Module, batches, loss, seed: int) -> None:
    """Trains all weights, pruned ones too."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def holding(model: nn.Module, batches, loss, seed: int) -> None:
    fit(model, batches, loss, epochs=1, seed=seed)


@pytest.fixture(scope="module")
def mask_kept(backbones: dict[str, nn.Module]):
    def check(trainer) -> None:
        found = full_transfer(backbones["magnitude"], TASK, trainer=trainer)
        assert found.flaw is None and found.leaked == 0
        zeros, now = zeros_of(backbones["magnitude"]), zeros_of(found.model[0])
        assert all(torch.equal(zeros[name], now[name]) for name in zeros)

    return check


def test_a_mask_that_leaks_is_found_out(mask_kept, trained: nn.Sequential, backbones: dict[str, nn.Module]) -> None:
    assert_beats_impostor(mask_kept, holding, leaking)
    row = transfer_study(trained[0], {"magnitude": backbones["magnitude"]}, [TASK], trainer=leaking)[1]
    assert len(row.flaws) == 1 and "zeros were trained" in row.flaws[0] and "digits 5-9" in row.flaws[0]


def test_cached_features_of_the_engine_give_the_same_head(backbones: dict[str, nn.Module]) -> None:
    def compiled(model: nn.Module):
        return rarefy.compile(copy.deepcopy(model), (TASK.train[0][:64],))

    anew = linear_transfer(backbones["magnitude"], TASK, cached=False, epochs=3)
    for extract in (None, compiled):
        cached = linear_transfer(backbones["magnitude"], TASK, extract=extract, epochs=3)
        torch.testing.assert_close(cached.model[1].weight, anew.model[1].weight, rtol=0.0, atol=1e-5)
        assert not cached.moved and cached.error == anew.error


def test_a_backbone_that_moves_under_linear_transfer_is_found_out() -> None:
    backbone = nn.Sequential(nn.Linear(64, 8), nn.ReLU())

    def spoiling(model: nn.Module):
        with torch.no_grad():
            model[0].bias.add_(1.0)
        return model

    assert linear_transfer(backbone, TASK, extract=spoiling, epochs=1).moved
    assert not linear_transfer(backbone, TASK, epochs=1).moved


def test_no_task() -> None:
    with pytest.raises(DataError, match="give at least one Task"):
        transfer_study(nn.Linear(4, 2), {}, [])
