"""Weights that are loaded in the midst of training are those that training goes on from."""

import copy

import pytest
import torch

from rarefy.core.errors import ModelError
from training.loops import STEPS, mlp, sgd, start, train

BEHIND = ["ste", "sr-ste", "top-kast", "movement-pruning", "powerpropagation", "ast-slorb", "bdwp", "bi-mask", "aswl"]
PLAIN = ["rigl", "gmp-zhu-gupta"]


@pytest.mark.parametrize("method", BEHIND + PLAIN)
def test_training_goes_on_from_what_was_loaded(method: str) -> None:
    task = mlp(width=32)
    trainer, made = start(task, method, sgd, **({"pattern": "2:4"} if method == "bdwp" else {}))
    list(train(task, trainer, 5))
    best = copy.deepcopy(task.model.state_dict())
    list(train(task, trainer, 5, 5))
    with torch.no_grad():
        best["2.weight"].mul_(3.0)
    task.model.load_state_dict(best)
    for group in made.param_groups:
        group["lr"] = 0.0
    list(train(task, trainer, 1, 10))
    state = trainer.run["2"]
    shown = task.model[2].weight.detach()
    assert bool((shown[~state.mask] == 0).all())
    assert torch.allclose(shown[state.mask & (best["2.weight"] != 0)], _loaded(best, state.mask), atol=1e-5)
    assert bool((state.mask & (best["2.weight"] != 0)).any())


@pytest.mark.parametrize("method", [*BEHIND, *PLAIN])
def test_so_does_it_from_what_was_written_through_data(method: str) -> None:
    """Of which torch counts no writes."""
    task = mlp(width=32)
    trainer, made = start(task, method, sgd, **({"pattern": "2:4"} if method == "bdwp" else {}))
    list(train(task, trainer, 5))
    weight = task.model[2].weight
    wanted = weight.detach() * 3.0
    weight.data.copy_(wanted)
    for group in made.param_groups:
        group["lr"] = 0.0
    list(train(task, trainer, 1, 5))
    there = trainer.run["2"].mask & (wanted != 0)
    assert torch.allclose(weight.detach()[there], wanted[there], atol=1e-5) and bool(there.any())


def test_one_entry_that_was_written_through_data_is_seen() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "top-kast", sgd)
    list(train(task, trainer, 5))
    state = trainer.run["2"]
    row, column = state.mask.nonzero()[0].tolist()
    task.model[2].weight.data[row, column] += 1e-3
    saved = trainer.state_dict()["weights"]["2"]["master"]
    assert float(saved[row, column]) == float(task.model[2].weight[row, column])


def _loaded(best: dict[str, torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    return best["2.weight"][mask & (best["2.weight"] != 0)]


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("method", ["edge-popup", "ssvi", "turbo-vbi-structured-bayes", "nm-gradient-decay"])
def test_what_cannot_be_taken_over_is_refused(method: str, data: bool) -> None:
    task = mlp(width=32)
    trainer, _ = start(task, method, sgd)
    list(train(task, trainer, 5))
    saved = copy.deepcopy((task.model.state_dict(), trainer.state_dict()))
    list(train(task, trainer, 3, 5))
    if data:
        for name, parameter in task.model.named_parameters():
            parameter.data.copy_(saved[0][name])
    else:
        task.model.load_state_dict(saved[0])
    before = {name: mask.clone() for name, mask in trainer.masks.items()}
    with pytest.raises(ModelError, match="was written to since the last step"):
        list(train(task, trainer, 1, 8))
    assert all(torch.equal(mask, before[name]) for name, mask in trainer.masks.items())
    trainer.load_state_dict(saved[1])
    assert list(train(task, trainer, STEPS - 8, 8))


def test_what_was_loaded_is_in_the_next_checkpoint() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "sr-ste", sgd)
    list(train(task, trainer, 5))
    best = {name: value * 2.0 for name, value in task.model.state_dict().items()}
    task.model.load_state_dict(best)
    saved = trainer.state_dict()["weights"]["2"]["master"]
    mask = trainer.masks["2"]
    assert torch.equal(saved[mask], best["2.weight"][mask])
    assert torch.equal(task.model[2].weight, best["2.weight"])
