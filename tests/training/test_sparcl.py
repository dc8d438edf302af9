"""Sparse continual learning: the budget at every step, what moves, what leaves, and what it costs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError, UnknownNameError
from rarefy.training.example_removal import ExampleRemoval
from rarefy.training.held import MOVES
from rarefy.training.replay import Reservoir, replay_loss
from rarefy.training.sparcl import SparclReport, sparcl
from rarefy.training.sparcl_masks import SparclSettings

SETTINGS = SparclSettings(every=2, intra=0.2, inter=0.2, gradient_sparsity=0.9, removal=0.3, removal_stages=2)


def tasks(count: int = 300, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    x, y = digits(count, seed)
    return [(x[y // 2 == t], y[y // 2 == t]) for t in range(3)]


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))


def learn(settings: SparclSettings = SETTINGS, model: nn.Module | None = None, **more: Any) -> SparclReport:
    model = model or net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    return sparcl(model, optimizer, tasks(), **{"sparsity": 0.8, "settings": settings, "epochs": 6, **more})


def test_the_budget_holds_at_every_step_outside_the_window_and_only_what_moves_is_updated() -> None:
    sizes: list[tuple[int, bool]] = []
    before: dict[str, Tensor] = {}

    def look(trainer: Any, task: int, expanded: bool) -> None:
        run = trainer.run
        assert all((s.kept == s.count) != expanded for s in run.states)
        sizes.append((sum(s.kept for s in run.states), expanded))
        for state in run.states:
            moves = state.extra[MOVES]
            assert int(moves.sum()) == round(0.1 * moves.numel()) and bool((moves <= state.mask).all())
            if state.name in before:
                stayed = (before[state.name] != 0) & (state.value() != 0) & ~moves
                assert torch.equal(state.value()[stayed], before[state.name][stayed])
            before[state.name] = state.value().clone()

    report = learn(look=look)
    assert {kept for kept, expanded in sizes if not expanded} == {sum(s.count for s in report.trainer.run.states)}
    windows = [i for i, (_, expanded) in enumerate(sizes) if expanded]
    assert windows and not sizes[0][1] and not sizes[-1][1]
    assert all(bool((s.value()[~s.mask] == 0).all()) for s in report.trainer.run.states)


def test_examples_that_are_never_wrong_leave() -> None:
    def check(counts: bool) -> None:
        removal = ExampleRemoval(100, 0.4, 2)
        wrong = torch.arange(100) % 3 != 0
        for _ in range(3):
            removal.count(torch.arange(100), wrong if counts else torch.zeros(100, dtype=torch.bool))
        gone = removal.remove()
        assert len(gone) == 20 and bool((~wrong[gone]).all())
        assert len(removal.active) == 80 and not set(gone.tolist()) & set(removal.active.tolist())
        later = removal.remove()
        assert len(later) == 20 and len(removal.remove()) == 0
        assert bool((~wrong[later[:14]]).all())  # the 14 easy ones that were left, then others

    assert_beats_impostor(check, True, False)


def test_what_left_in_a_training_was_wrong_least_often() -> None:
    report = learn(replace(SETTINGS, removal=0.1), batch=4)
    assert [len(gone) for gone in report.removed] == [round(0.1 * len(x)) for x, _ in tasks()]
    for gone, mistakes in zip(report.removed, report.mistakes, strict=True):
        others = torch.ones(len(mistakes), dtype=torch.bool).index_fill(0, gone, False)
        assert len(gone.unique()) == len(gone)
        assert int(mistakes[gone].max()) <= int(mistakes[others].min()) < int(mistakes.max())


def test_multiplications_fall_as_predicted() -> None:
    plain = SparclSettings(every=2, alpha=0.0, beta=0.0, inter=0.0, gradient_sparsity=0.9, removal=0.5)
    one = replace(plain, removal_stages=1)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, y = (t[:64] for t in digits(64, 3))
    found = sparcl(model, optimizer, [(x, y)], sparsity=0.8, settings=one, epochs=4, batch=32).products
    size = sum(s.numel() for n, s in model.named_parameters() if n.endswith("weight"))
    first = 32 + 3 * 64  # the first batch of all has no replay, the next three have as many examples again
    steps = first + 2 * 2 * 32
    assert found.dense == 3 * size * (first + 2 * 2 * 64)
    assert found.sparse == pytest.approx(steps * (2 * 0.2 + 0.1) * size, rel=0.01)
    assert found.scoring == 0 and found.share < 0.13


def importance(settings: SparclSettings) -> float:
    """How much larger the buffer's gradient is where weights were kept than where they went, at equal magnitude."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)  # weights hardly move: the masks tell what counts
    for p in model.parameters():
        torch.nn.init.constant_(p, 0.02) if p.dim() == 2 else None
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(torch.randint(2, p.shape) * 2.0 - 1.0)
    data = tasks()
    masks: list[Tensor] = []
    report = sparcl(
        model,
        optimizer,
        data[:1],
        sparsity=0.5,
        settings=settings,
        epochs=3,
        look=lambda trainer, task, expanded: masks.append(trainer.run.states[1].mask.clone()),
    )
    gone = masks[0] & ~masks[-1]
    stayed = masks[0] & masks[-1]
    loss = F.cross_entropy(model(data[0][0])[:, :2], data[0][1])
    grad = torch.autograd.grad(loss, report.trainer.run.states[1].weight.parameter)[0].abs()
    return float(grad[stayed].mean() / grad[gone].mean())


def test_weights_that_the_loss_depends_on_stay() -> None:
    def check(settings: SparclSettings) -> None:
        assert importance(settings) > 1.5

    by_gradient = SparclSettings(alpha=100.0, beta=0.0, every=2, intra=0.3)
    assert_beats_impostor(check, by_gradient, replace(by_gradient, alpha=0.0))


def test_all_that_came_in_has_the_same_chance_to_be_held() -> None:
    held = torch.zeros(50)
    for seed in range(200):
        buffer = Reservoir(10, torch.Generator().manual_seed(seed))
        numbers = torch.arange(50)
        for part in numbers.split(7):
            buffer.add(part[:, None].float(), part, part[:, None].float())
        assert len(buffer) == 10 and len(set(buffer.y.tolist())) == 10
        held[buffer.y] += 1
    assert float(held.sum()) == 2000 and float(held.min()) > 20 and float(held.max()) < 62


def test_dark_replay_adds_the_distance_of_the_logits() -> None:
    model = nn.Linear(3, 2)
    buffer = Reservoir(4, torch.Generator().manual_seed(0))
    assert replay_loss(model, buffer, 4) is None
    x = torch.randn(1, 3).expand(4, 3)
    buffer.add(x, torch.zeros(4, dtype=torch.long), torch.full((4, 2), 3.0))
    plain = F.cross_entropy(model(x), torch.zeros(4, dtype=torch.long))
    assert float(replay_loss(model, buffer, 4).detach()) == pytest.approx(float(plain.detach()))
    both = plain + 0.5 * F.mse_loss(model(x), torch.full((4, 2), 3.0))
    assert float(replay_loss(model, buffer, 4, "der++").detach()) == pytest.approx(float(both.detach()))
    with pytest.raises(UnknownNameError, match="did you mean 'der"):
        replay_loss(model, buffer, 4, "der+")


def test_bad_calls_say_what_to_do() -> None:
    with pytest.raises(SparsityError, match="give at least the sparsity of the weights"):
        learn(replace(SETTINGS, gradient_sparsity=0.5))
    with pytest.raises(SparsityError, match="at least one epoch"):
        SparclSettings(every=0)
    with pytest.raises(SparsityError, match="at least one stage"):
        ExampleRemoval(10, 0.5, 0)
    with pytest.raises(DataError, match="not a number of examples"):
        learn(replace(SETTINGS, buffer=0))
    model = net()
    with pytest.raises(DataError, match=r"tasks\[0\]"):
        sparcl(model, torch.optim.SGD(model.parameters(), lr=0.1), [(torch.randn(3, 64), torch.randn(3))], sparsity=0.8)
