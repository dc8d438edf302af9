"""A weight that has no gradient in a step keeps its values and its mask in that step, and makes up for it later."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import rarefy
from rarefy.core.errors import ModelError
from rarefy.core.registry import Entry
from rarefy.ops import available
from rarefy.training import SparseTrainer
from training.loops import STEPS, Skipping, adam, mlp, sgd, skipping, start, train, training_methods
from training.runs import in_both

METHODS = [pytest.param(entry, id=entry.id) for entry in training_methods()]
needs_native = pytest.mark.skipif(not available(), reason="the native module is not built")


def _copy(trainer: SparseTrainer, name: str) -> tuple[Tensor, Tensor]:
    state = trainer.run[name]
    return state.mask.clone(), state.weight.parameter.detach().clone()


def _counts_are_exact(trainer: SparseTrainer, names: list[str]) -> bool:
    return all(trainer.run[name].kept == trainer.run[name].count for name in names)


@pytest.mark.parametrize("entry", METHODS)
def test_a_weight_that_is_frozen_on_the_way_stays_as_it_is(entry: Entry) -> None:
    """Even where zero gradients are left in it, which would let momentum move it."""
    task = mlp(width=32)
    trainer, made = start(task, entry)
    list(train(task, trainer, 7))
    made.zero_grad(set_to_none=False)
    task.model[2].weight.requires_grad_(False)
    mask, value = _copy(trainer, "2")
    others = {name: _copy(trainer, name)[1] for name in ("0", "4")}
    for _ in train(task, trainer, STEPS - 7, 7):
        now = _copy(trainer, "2")
        assert torch.equal(now[0], mask) and torch.equal(now[1], value)
    assert not any(torch.equal(_copy(trainer, name)[1], was) for name, was in others.items())
    if trainer.method.exact:
        assert _counts_are_exact(trainer, ["0", "4"])


@pytest.mark.parametrize("entry", METHODS)
def test_a_weight_that_a_step_leaves_out_stays_and_then_catches_up(entry: Entry) -> None:
    task = skipping()
    trainer, _ = start(task, entry, sgd)
    assert isinstance(task.model, Skipping)
    list(train(task, trainer, 7))
    task.model.routed = False
    for step in range(7, STEPS - 1):
        before = _copy(trainer, "expert")
        list(train(task, trainer, 1, step))
        now = _copy(trainer, "expert")
        assert torch.equal(now[0], before[0]) and torch.equal(now[1], before[1])
    task.model.routed = True
    list(train(task, trainer, 1, STEPS - 1))
    assert not torch.equal(_copy(trainer, "expert")[1], before[1])
    shown = trainer.run["expert"].weight.parameter.detach()
    if trainer.method.transform.hides_dropped:
        assert bool((shown[~trainer.masks["expert"]] == 0).all())
    if trainer.method.exact:
        assert _counts_are_exact(trainer, ["first", "expert", "last"])


@pytest.mark.parametrize("method", ["hypersparse-art", "aswl", "teddy", "sparse-momentum"])
def test_one_count_over_all_weights_stays_exact(method: str) -> None:
    """Weights left out at a cut count with what they keep, or keep their part later."""
    task = skipping()
    trainer, _ = start(task, method, **({} if method in ("aswl", "teddy") else {"every": 4}))
    assert isinstance(task.model, Skipping)
    size = sum(state.size for state in trainer.run.states)
    list(train(task, trainer, 7))
    task.model.routed = False
    list(train(task, trainer, STEPS - 8, 7))
    task.model.routed = True
    list(train(task, trainer, 1, STEPS - 1))
    assert sum(state.kept for state in trainer.run.states) == size // 4


def test_a_run_that_was_behind_when_it_was_saved_goes_on_bit_for_bit() -> None:
    whole = skipping()
    trainer, made = start(whole, "gmp-zhu-gupta", every=4)
    assert isinstance(whole.model, Skipping)
    whole.model.routed = False
    list(train(whole, trainer, STEPS - 4))
    assert trainer.run["expert"].kept == trainer.run["expert"].size
    parts = copy.deepcopy((whole.model.state_dict(), made.state_dict(), trainer.state_dict()))
    again = skipping()
    optimizer = adam(again.model)
    again.model.load_state_dict(parts[0])
    optimizer.load_state_dict(parts[1])
    options: dict[str, Any] = {"total_steps": STEPS, "sparsity": 0.75, "every": 4, "state": parts[2]}
    resumed = rarefy.sparse_training(again.model, optimizer, "gmp-zhu-gupta", **options)
    whole.model.routed = True
    found = list(train(again, resumed, 4, STEPS - 4))
    assert found == list(train(whole, trainer, 4, STEPS - 4))
    assert torch.equal(resumed.masks["expert"], trainer.masks["expert"])
    assert trainer.run["expert"].kept == trainer.run["expert"].count


@needs_native
@pytest.mark.parametrize("method", ["rigl", "srigl", "dst-ee", "set", "gmp-zhu-gupta", "acdc", "static"])
def test_frozen_layers_stay_packed_and_thaw(method: str) -> None:
    """The masks of both runtimes are the same, through freezing and thawing just ahead of a change."""
    more: dict[str, Any] = {} if method == "static" else {"every": 6 if method == "acdc" else 5}
    masks = {}
    for runtime, task, _, trainer in in_both(method, **more):
        list(train(task, trainer, 30))  # AC/DC has just begun a sparse phase
        layer = task.model[2]
        layer.weight.requires_grad_(False)
        said, before = trainer.runtime["2"], (trainer.masks["2"].clone(), layer.weight.detach().clone())
        list(train(task, trainer, 5, 30))
        assert trainer.runtime["2"] == said and (said == "sparse") == (runtime == "sparse")
        assert torch.equal(trainer.masks["2"], before[0]) and torch.equal(layer.weight, before[1])
        layer.weight.requires_grad_(True)
        list(train(task, trainer, 1, 35))
        masks[runtime] = trainer.masks
    for name, mask in masks["dense"].items():
        assert torch.equal(mask, masks["sparse"][name]), name


def test_biases_train_on_where_all_weights_are_frozen() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "rigl", every=4)
    list(train(task, trainer, 4))
    for index in (0, 2, 4):
        task.model[index].weight.requires_grad_(False)
    masks, bias = trainer.masks, task.model[4].bias.detach().clone()
    list(train(task, trainer, 5, 4))
    assert not torch.equal(task.model[4].bias, bias)
    assert all(torch.equal(mask, masks[name]) for name, mask in trainer.masks.items())


def _around_a_kill(entry: Entry | str, kill: bool, **more: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Frozen from step 7 to step 17, killed at step 12 or not."""
    task = mlp(width=32)
    trainer, made = start(task, entry, sgd, **more)
    list(train(task, trainer, 7))
    task.model[2].weight.requires_grad_(False)
    list(train(task, trainer, 5, 7))
    if kill:
        saved = copy.deepcopy((task.model.state_dict(), made.state_dict(), trainer.state_dict()))
        task = mlp(width=32, seed=1)
        task.model[2].weight.requires_grad_(False)
        task.model.load_state_dict(saved[0])
        made = sgd(task.model)
        made.load_state_dict(saved[1])
        trainer, _ = start(task, entry, lambda _: made, state=saved[2], **more)
    losses = list(train(task, trainer, 5, 12))
    task.model[2].weight.requires_grad_(True)
    losses += list(train(task, trainer, STEPS - 17, 17))
    return losses, trainer.masks


@pytest.mark.parametrize("entry", METHODS)
def test_a_run_goes_on_from_a_checkpoint_with_what_was_frozen_then(entry: Entry) -> None:
    plain = {"adapter": False} if entry.id == "ast-slorb" else {}  # adapters ask for the trainer ahead of the model
    losses, masks = _around_a_kill(entry, kill=True, **plain)
    expected, kept = _around_a_kill(entry, kill=False, **plain)
    assert losses == expected
    assert masks.keys() == kept.keys() and all(torch.equal(mask, kept[name]) for name, mask in masks.items())


@needs_native
def test_so_does_one_on_packed_layers() -> None:
    (losses, masks), (expected, kept) = (
        _around_a_kill("rigl", kill, every=4, runtime="sparse") for kill in (True, False)
    )
    assert losses == expected and all(torch.equal(mask, kept[name]) for name, mask in masks.items())


def test_a_layer_that_was_frozen_when_its_trainer_was_made_has_to_be_so_again() -> None:
    task = mlp(width=32)
    task.model[2].weight.requires_grad_(False)
    trainer, _ = start(task, "rigl", every=4)
    saved = trainer.state_dict()
    task = mlp(width=32)
    with pytest.raises(
        ModelError, match=r"2: saved None.*ignored or frozen when the trainer was made, is to be so again"
    ):
        start(task, "rigl", every=4, state=saved)


def test_a_trainer_that_was_ended_takes_no_state() -> None:
    """Its steps would be dense ones."""
    task = mlp(width=32)
    trainer, _ = start(task, "rigl", every=4)
    saved = trainer.state_dict()
    trainer.detach()
    with pytest.raises(ModelError, match=r"ended by its detach\(\).*rarefy\.sparse_training\(.*state=\.\.\.\)"):
        trainer.load_state_dict(saved)
