"""Pruning while data arrive: densities to one weight, nested masks, only data that are there."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError
from rarefy.training.app import AnytimeReport, anytime_densities, anytime_pruning
from rarefy.training.cycles import Cycle

Batch = tuple[Tensor, Tensor]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def parts(count: int = 4, size: int = 120) -> list[list[Batch]]:
    x, y = digits(count * size, 0)
    whole = list(zip(x.split(20), y.split(20), strict=True))
    return [whole[i * size // 20 : (i + 1) * size // 20] for i in range(count)]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def train(model: nn.Module, cycle: Cycle, data: list[Batch]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = cycle.attach(optimizer)
    for _ in range(3):
        for batch in data:
            loss(model, batch).backward()
            trainer.step()
            optimizer.zero_grad()


def run(**more: Any) -> tuple[AnytimeReport, list[dict[str, Tensor]]]:
    seen: list[dict[str, Tensor]] = []

    def watched(model: nn.Module, cycle: Cycle, data: list[Batch]) -> None:
        seen.append(dict(cycle.masks))
        train(model, cycle, data)

    given = {"parts": 4, "loss": loss, **more}
    return anytime_pruning(net(), watched, parts(), **given), seen


@pytest.mark.parametrize("score", ["snip", "magnitude", "grasp"])
def test_densities_to_one_weight_and_masks_are_nested(score: str) -> None:
    def check(settings: dict[str, Any]) -> None:
        report, seen = run(score=score, **settings)
        size = 64 * 48 + 480
        for i, masks in enumerate(seen):
            assert sum(int(m.sum()) for m in masks.values()) == round(0.8 ** (1 + 3.5 * i / 3) * size)
            if i:
                assert all(bool((mask <= seen[i - 1][name]).all()) for name, mask in masks.items())
        assert report.densities == tuple(anytime_densities(4))

    assert_beats_impostor(check, {"substeps": 2}, {"one_shot": True})


def test_one_shot_ends_at_the_same_density_and_never_changes() -> None:
    report, seen = run(one_shot=True)
    assert report.densities == (0.8**4.5,) * 4
    assert all(torch.equal(seen[0][n], seen[-1][n]) for n in seen[0])


@pytest.mark.parametrize("replay", [False, True])
def test_only_data_that_have_arrived_are_touched(replay: bool) -> None:
    arrived: list[int] = []
    used: list[list[int]] = []
    data = parts()
    number = {id(batch): i for i, part in enumerate(data) for batch in part}

    def stream() -> Iterator[list[Batch]]:
        for i, part in enumerate(data):
            assert len(used) == i, "the next part was taken before the one before it was trained on"
            arrived.append(i)
            yield part

    def watched_loss(model: nn.Module, batch: Batch) -> Tensor:
        assert number[id(batch)] == arrived[-1]  # scores look at the new part only
        return loss(model, batch)

    def watched(model: nn.Module, cycle: Cycle, batches: list[Batch]) -> None:
        used.append(sorted({number[id(batch)] for batch in batches}))
        train(model, cycle, batches)

    anytime_pruning(net(), watched, stream(), parts=4, loss=watched_loss, replay=replay)
    assert used == [list(range(i + 1)) if replay else [i] for i in range(4)]


def test_scores_come_from_a_share_of_the_part() -> None:
    calls: list[int] = []

    def counted(model: nn.Module, batch: Batch) -> Tensor:
        calls.append(1)
        return loss(model, batch)

    run(loss=counted, share=0.5)
    assert len(calls) == 4 * 3  # half of six batches, once a part


def test_the_next_part_begins_with_the_best_weights() -> None:
    def check(best_step: int) -> None:
        begun: list[Tensor] = []
        at_three: list[Tensor] = []
        looks: list[int] = []

        def validate(model: nn.Module) -> float:
            looks.append(1)
            return -abs(len(looks) - best_step)

        def watched(model: nn.Module, cycle: Cycle, data: list[Batch]) -> None:
            begun.append(model[2].weight.detach().clone())
            trainer = cycle.attach(torch.optim.SGD(model.parameters(), lr=0.1))
            for step, batch in enumerate(data):
                loss(model, batch).backward()
                trainer.step()
                trainer.zero_grad()
                if cycle.index == 0 and step == 2:
                    at_three.append(model[2].weight.detach().clone())

        report = anytime_pruning(
            net(), watched, parts()[:2], parts=2, tau=1.0, loss=loss, validate=validate, validate_every=1
        )
        assert torch.equal(begun[1], at_three[0] * report.masks["2"])

    assert_beats_impostor(check, 3, 6)


def test_errors_over_time_add_up() -> None:
    x, y = digits(300, 9)

    @torch.no_grad()
    def error(model: nn.Module) -> float:
        return float((model(x).argmax(1) != y).double().mean())

    report, _ = run(error=error)
    assert len(report.errors) == 4 and report.cumulative_error == pytest.approx(sum(report.errors))
    assert report.errors[-1] < report.errors[0]


def test_bad_calls_say_what_to_do() -> None:
    with pytest.raises(DataError, match="more than the 2 that were announced"):
        run(parts=2)
    with pytest.raises(DataError, match="take a backward pass"):
        run(loss=None)
    with pytest.raises(DataError, match="0 < share"):
        run(share=0.0)
    with pytest.raises(SparsityError, match="tau >= 1"):
        anytime_densities(3, tau=0.5)
    with pytest.raises(SparsityError, match="not a number of passes"):
        run(substeps=0)
