"""Two trainers never hold one weight."""

import copy
import gc
import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from rarefy.core.errors import ModelError
from rarefy.ops import available
from training.loops import mlp, sgd, start, train

RUNTIMES = ["dense", *(["sparse"] if available() else [])]
KEPT: dict[str, Any] = {"sparsity": 0.75, "total_steps": 24}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("second", ["set", "top-kast", "magnitude"])
def test_a_second_trainer_with_another_optimizer_is_refused_until_the_first_is_detached(
    runtime: str, second: str
) -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "rigl", sgd, every=4, runtime=runtime)
    list(train(task, trainer, 3))
    before = copy.deepcopy(task.model.state_dict())
    other = sgd(task.model)
    with pytest.raises(
        ModelError, match=r"0, 2, 4 of the model are held by a sparse trainer \('rigl', step 3\).*detach\(\) first"
    ):
        rarefy.sparse_training(task.model, other, second, **KEPT)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())
    straight = mlp(width=32)
    expected = list(train(straight, start(straight, "rigl", sgd, every=4, runtime=runtime)[0], 9))
    assert list(train(task, trainer, 6, 3)) == expected[3:]
    trainer.detach()
    again = rarefy.sparse_training(task.model, sgd(task.model), second, **KEPT)
    list(train(task, again, 2))
    assert again.step_count == 2


def test_two_trainers_may_hold_a_part_of_the_model_each() -> None:
    task = mlp(width=32)
    first, _ = start(
        task, "rigl", lambda model: sgd(nn.Sequential(model[0], model[2])), every=4, ignore=["4"], runtime=RUNTIMES[-1]
    )
    second = rarefy.sparse_training(task.model, sgd(task.model[4]), "set", ignore=["0", "2"], **KEPT)
    for step in range(6):
        task.loss(step).backward()
        first.step()
        second.step()
        task.model.zero_grad()
    assert not first.masks.keys() & second.masks.keys()
    assert all(trainer.sparsity == pytest.approx(0.75, abs=0.01) for trainer in (first, second))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_trainer_that_nobody_holds_any_more_is_in_no_ones_way(runtime: str) -> None:
    task = mlp(width=32)
    trainer, optimizer = start(task, "rigl", sgd, every=4, runtime=runtime)
    list(train(task, trainer, 3))
    gc.disable()
    try:
        del trainer, optimizer
        second = rarefy.sparse_training(task.model, sgd(task.model), "static", sparsity=0.0)
    finally:
        gc.enable()
    x, y = task.batches[0]
    F.cross_entropy(task.model(x), y).backward()
    weight = task.model[2].weight
    assert weight.shape == (32, 32) and bool((weight.grad[weight == 0] != 0).any())
    second.step()


@pytest.mark.skipif(not available(), reason="no layer is packed without native kernels")
def test_layers_that_were_pickled_while_they_were_packed_begin_dense() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "rigl", sgd, every=4, runtime="sparse")
    list(train(task, trainer, 3))
    file = io.BytesIO()
    torch.save(task.model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    second = rarefy.sparse_training(twin, sgd(twin), "static", sparsity=0.75)
    assert isinstance(twin[2], nn.Linear) and twin[2].weight.shape == (32, 32)
    list(train(type(task)(twin, task.batches), second, 2))
    assert task.model[2].weight.dim() == 1
