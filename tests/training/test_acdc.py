"""AC/DC takes turns, its masks move between turns, and its tools say whether the training was long enough."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError
from rarefy.training.acdc import acdc, acdc_plus_plus, extended_steps
from rarefy.training.method import SparseMethod
from rarefy.training.static import static
from rarefy.training.under_training import under_training
from training.loops import adam, mlp, start, train


def phases(method: SparseMethod, steps: int = 40) -> list[tuple[bool, torch.Tensor]]:
    """Whether the middle layer is dense, and its mask, after every step."""
    task = mlp()
    import rarefy

    trainer = rarefy.sparse_training(task.model, adam(task.model), method, sparsity=0.75, total_steps=steps)
    found = []
    for _ in train(task, trainer, steps):
        mask = trainer.run.states[1].mask
        found.append((bool(mask.all()), mask.clone()))
    assert all(state.kept == state.count for state in trainer.run.states)
    return found


def alternates(method: SparseMethod) -> None:
    found = phases(method)
    assert [dense for dense, _ in found] == [True] * 7 + [False] * 8 + [True] * 8 + [False] * 17
    first, last = found[14][1], found[39][1]
    assert torch.equal(found[7][1], first) and torch.equal(found[23][1], last)  # fixed within a phase
    overlap = float((first & last).sum() / (first | last).sum())
    assert 0.2 < overlap < 0.98


def test_phases_alternate_and_the_mask_moves_between_them() -> None:
    method = acdc(every=8, begin=0.2, end=0.8)
    assert_beats_impostor(alternates, method, static(start="magnitude"))


def test_a_number_of_phases_fills_the_time_whatever_the_length() -> None:
    for steps in (40, 80):
        dense = [dense for dense, _ in phases(acdc_plus_plus(phases=4, begin=0.2, end=0.8), steps)]
        turns = sum(a != b for a, b in pairwise(dense))
        assert turns == 5 and dense[0] and not dense[-1]  # the warm-up, four phases, and the sparse end


def test_what_comes_back_begins_at_zero_with_a_fresh_memory() -> None:
    task = mlp()
    trainer, optimizer = start(task, "acdc", every=8, begin=0.2, end=0.8, total_steps=40)
    list(train(task, trainer, 15))
    state = trainer.run.states[1]
    gone, moment = ~state.mask, optimizer.state[state.weight.parameter]["exp_avg"]
    list(train(task, trainer, 1, 15))  # the sixteenth step ends the phase
    assert bool(gone.any()) and bool(state.mask.all())
    assert bool((state.value()[gone] == 0).all()) and bool((moment[gone] == 0).all())
    list(train(task, trainer, 1, 16))
    assert float(state.value()[gone].abs().max()) <= 0.0101  # a first step of Adam, not one three times as long
    assert bool((state.value()[gone] != 0).any())


def test_longer_for_sparser_nets() -> None:
    assert [extended_steps(1000, d) for d in (1.0, 0.2, 0.1, 0.05, 0.02, 0.01)] == [
        1000,
        1000,
        2000,
        4000,
        10000,
        10000,
    ]
    with pytest.raises(SparsityError, match="density = 1 - sparsity"):
        extended_steps(1000, 0.0)
    with pytest.raises(SparsityError, match="phases do not take turns"):
        acdc_plus_plus(phases=1)


def test_under_training_is_loss_and_entropy_of_the_outputs() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    found = under_training(model, [(x[:2], y[:2]), (x[2:], y[2:])])
    assert model.training
    p = model[0](x).detach().softmax(-1)
    assert found.samples == 6
    assert found.loss == pytest.approx(float(-p[torch.arange(6), y].log().mean()), rel=1e-5)
    assert found.entropy == pytest.approx(float(-(p * p.log()).sum(1).mean()), rel=1e-5)
    with pytest.raises(DataError, match="no batches"):
        under_training(model, [])


def test_a_short_sparse_training_is_under_trained_and_a_long_one_less() -> None:
    def after(name: str, sparsity: float, steps: int) -> float:
        task = mlp(width=128)
        trainer, _ = start(task, name, sparsity=sparsity, total_steps=steps, **({"every": 4} if name == "acdc" else {}))
        list(train(task, trainer, steps))
        return under_training(task.model, task.batches).loss

    dense, short, long = after("static", 0.0, 40), after("acdc", 0.9, 40), after("acdc", 0.9, 200)
    assert short > dense + 0.1
    assert short - long > 0.5 * (short - dense)
