"""Frozen nets on other tasks: what may change, which class stands for which, and a calibration done by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.calibration_error import reliability
from rarefy.analysis.reprogram_study import Canvas, match_upstream, reprogram_study
from rarefy.analysis.reprogramming import Reprogrammed, ReprogramSettings, label_map, reprogram
from rarefy.analysis.transfer_study import Task
from rarefy.core.errors import DataError
from rarefy.core.site import find_sites

SIZE = (12, 12)
CANVAS = Canvas(1, SIZE, (8, 8), lambda x: x.flatten(1))


def pictures(count: int, seed: int, turned: bool = False) -> tuple[Tensor, Tensor]:
    """8 x 8 digits; turned: upside down and with other numbers, the other task."""
    x, y = digits(count, seed)
    x = x.view(-1, 1, 8, 8)
    return (x.flip(2, 3), (y + 3) % 10) if turned else (x, y)


def large(x: Tensor) -> Tensor:
    return F.interpolate(x, size=SIZE, mode="bilinear", align_corners=False).flatten(1)


def net(sparsity: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = pictures(500, 0)
    for _ in range(60):
        F.cross_entropy(model(large(x)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        for site in find_sites(model)[0]:
            small = site.parameter.abs() < site.parameter.abs().flatten().quantile(sparsity)
            site.parameter.masked_fill_(small, 0.0)
    return model


def task(name: str = "turned") -> Task:
    return Task(name, pictures(300, 1, turned=True), pictures(300, 2, turned=True), 10)


def test_only_the_pattern_is_trained_and_the_net_is_the_same_bit_for_bit() -> None:
    def check(settings: ReprogramSettings) -> None:
        backbone = net()
        before = {name: value.clone() for name, value in backbone.state_dict().items()}
        model = Reprogrammed(backbone, 1, SIZE, (8, 8), 10, CANVAS.as_input)
        one = task()
        reprogram(model, *one.train, settings)
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in backbone.parameters())
        inside = model.pattern.detach()[~model.border]
        assert bool((inside == 0).all()) and sorted(model.mapping.tolist()) == list(range(10))
        with torch.no_grad():
            assert float(F.cross_entropy(model(one.train[0]), one.train[1])) < 2.1

    settings = ReprogramSettings(epochs=12)
    assert_beats_impostor(check, settings, replace(settings, rate=0.0))


def test_classes_are_mapped_one_to_one_by_how_often_they_meet() -> None:
    def logits(*choices: int) -> Tensor:
        return F.one_hot(torch.tensor(choices), 4).float()

    found = label_map(logits(2, 2, 2, 2, 2, 0, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), 3)
    assert found.tolist() == [2, 0, 1]  # both want 2; the class that wants it more often has it
    shares = label_map(logits(1, 1, 1, 0, 1, 1), torch.tensor([0, 0, 0, 0, 1, 1]), 2)
    assert shares.tolist() == [0, 1]  # 3 of 4 against 2 of 2: large classes do not go first
    with pytest.raises(DataError, match="cannot have 4 source classes"):
        label_map(logits(0), torch.tensor([0]), 5)


def test_the_calibration_error_is_that_of_a_case_done_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.93, 0.62, 0.58, 0.55])
    logits = torch.stack([confidence, 1 - confidence], 1).log()
    labels = torch.tensor([0, 0, 0, 1, 1])
    found = reliability(logits, labels, bins=10)
    assert [count for count, _, _ in found.bins] == [2, 1, 2]
    assert found.error == pytest.approx((2 * abs(1 - 0.94) + abs(1 - 0.62) + 2 * abs(0 - 0.565)) / 5, abs=1e-6)
    sure = reliability(torch.tensor([[100.0, 0.0]] * 4), torch.tensor([0, 0, 1, 1]))
    assert sure.error == pytest.approx(0.5) and sure.bins == ((4, 1.0, 0.5),)
    with pytest.raises(DataError, match="0 bins"):
        reliability(logits, labels, bins=0)


def test_the_study_has_a_row_for_each_net_way_and_share() -> None:
    x, y = pictures(200, 5)

    def upstream(model: nn.Module) -> float:
        return float((model(large(x)).argmax(1) == y).double().mean())

    nets = {"dense": net(), "90 %": net(0.9)}
    rows = reprogram_study(
        nets, [task()], CANVAS, upstream,
        features=lambda model: model[:2], shares=(0.1, 1.0), settings=ReprogramSettings(epochs=8),
    )  # fmt: skip
    assert [(r.name, r.way, r.share) for r in rows] == [
        (name, way, share) for name in nets for share in (0.1, 1.0) for way in ("linear", "reprogramming")
    ]
    assert (
        not any(r.moved for r in rows) and rows[0].sparsity == 0.0 and rows[-1].sparsity == pytest.approx(0.9, abs=0.01)
    )
    by = {(r.name, r.way, r.share): r.accuracy for r in rows}
    assert by["dense", "linear", 1.0] > by["dense", "linear", 0.1]
    assert by["dense", "linear", 1.0] > by["dense", "reprogramming", 1.0] > 0.2
    assert rows[0].upstream > 0.8 and all(0.0 <= r.reliability.error <= 1.0 for r in rows)


def test_a_net_that_moves_is_found_out() -> None:
    def upstream(model: nn.Module) -> float:
        return 0.0

    def leaky(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            model[0].weight.add_(1e-3)
        return model[:2]

    settings = ReprogramSettings(epochs=1)
    rows = reprogram_study({"net": net()}, [task()], CANVAS, upstream, features=leaky, settings=settings)
    assert all(row.moved for row in rows)


def test_the_parent_of_equal_accuracy_is_taken() -> None:
    nets = [nn.Linear(2, 2) for _ in range(3)]
    assert match_upstream([(nets[0], 0.7), (nets[1], 0.82), (nets[2], 0.95)], 0.85) is nets[1]
    with pytest.raises(DataError, match="no checkpoint"):
        match_upstream([], 0.5)
    with pytest.raises(DataError, match="leaves no border"):
        Reprogrammed(nets[0], 1, (8, 8), (8, 8), 2, CANVAS.as_input)
