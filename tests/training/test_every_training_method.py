"""What every method of sparse training has to keep to, found by the index."""

from itertools import count
from typing import Any

import pytest
import torch

from rarefy.core.errors import DataError, ModelError
from rarefy.core.registry import Entry
from rarefy.patterns.unstructured import Layerwise
from training.loops import STEPS, adam, convnet, mlp, recurrent, sgd, start, train, training_methods, transformer

METHODS = [pytest.param(entry, id=entry.id) for entry in training_methods()]
MODELS = [mlp, convnet, recurrent, transformer]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("entry", METHODS)
def test_the_density_is_exact_at_the_end_and_what_is_dropped_is_zero_at_every_step(entry: Entry, make: Any) -> None:
    task = make()
    trainer, _ = start(task, entry)
    losses = []
    for loss in train(task, trainer, STEPS):
        losses.append(loss)
        for state in trainer.run.states:
            shown = state.weight.as_matrix(state.weight.parameter.detach())
            if trainer.method.transform.hides_dropped:
                assert bool((shown[~state.mask] == 0).all()), state.name
            assert bool(shown.isfinite().all())
    assert all(state.kept == state.count for state in trainer.run.states if trainer.method.exact)
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("optimizer", [adam, sgd])
@pytest.mark.parametrize("entry", METHODS)
def test_a_run_that_is_resumed_goes_on_bit_for_bit(entry: Entry, optimizer: Any, tmp_path: Any) -> None:
    whole = mlp()
    trainer, _ = start(whole, entry, optimizer)
    expected = list(train(whole, trainer, STEPS))
    half = mlp()
    trainer, made = start(half, entry, optimizer)
    found = list(train(half, trainer, STEPS // 2 + 1))
    parts = {"model": half.model.state_dict(), "optimizer": made.state_dict(), "trainer": trainer.state_dict()}
    torch.save(parts, tmp_path / "checkpoint.pt")
    parts = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again = mlp(seed=9)
    trainer, made = start(again, entry, optimizer)
    again.model.load_state_dict(parts["model"])
    made.load_state_dict(parts["optimizer"])
    trainer.load_state_dict(parts["trainer"])
    found += list(train(again, trainer, STEPS - STEPS // 2 - 1, STEPS // 2 + 1))
    assert found == expected
    for mine, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("entry", METHODS)
def test_a_start_that_fails_at_the_second_weight_has_changed_none(
    entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, turns = Layerwise.select, count()

    def fails(self: Layerwise, scores: torch.Tensor, density: float) -> torch.Tensor:
        if next(turns) == 1:
            raise DataError("the second")
        return choose(self, scores, density)

    task = mlp()
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    monkeypatch.setattr(Layerwise, "select", fails)
    try:
        start(task, entry)
    except DataError:
        for now, was in zip(task.model.parameters(), before, strict=True):
            assert torch.equal(now, was)
        return
    assert entry.id not in {"rigl", "set", "static", "dst-ee", "top-kast"}, "its start goes by the pattern"


@pytest.mark.parametrize("entry", METHODS)
def test_gradients_that_are_not_finite_change_nothing(entry: Entry) -> None:
    task = mlp()
    trainer, _ = start(task, entry, sgd)
    list(train(task, trainer, 5))
    before = [p.detach().clone() for p in task.model.parameters()]
    masks = {name: mask.clone() for name, mask in trainer.masks.items()}
    task.loss(0).backward()
    task.model[2].weight.grad[3, 4] = float("nan")
    with pytest.raises(DataError, match=r"2\.weight is not finite"):
        trainer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, task.model.parameters(), strict=True))
    assert all(torch.equal(masks[name], mask) for name, mask in trainer.masks.items())
    assert trainer.step_count == 5
    trainer.zero_grad()
    with pytest.raises(DataError, match="no trained weight has a gradient"):
        trainer.step()
    assert list(train(task, trainer, 1, 5))


@pytest.mark.parametrize("entry", METHODS)
def test_the_state_of_another_run_is_refused(entry: Entry) -> None:
    trainer, _ = start(mlp(), entry)
    saved = trainer.state_dict()
    other, _ = start(mlp(width=32), entry)
    with pytest.raises(ModelError, match="weights differ"):
        other.load_state_dict(saved)
    saved["identity"]["method"] = "another"
    with pytest.raises(ModelError, match="method differs"):
        trainer.load_state_dict(saved)


@pytest.mark.parametrize("entry", METHODS)
def test_what_is_kept_at_the_start_counts_as_explored(entry: Entry) -> None:
    trainer, _ = start(mlp(), entry)
    report = trainer.report()
    assert report.explored == pytest.approx(1.0 - report.sparsity)
