"""Penalties that are not finite change nothing."""

import pytest
import torch

from rarefy.core.errors import DataError
from training.loops import mlp, sgd, start, train


def test_a_penalty_that_is_not_finite_changes_nothing() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "hypersparse-art", sgd, first=1e-4, growth=1e200, every=1, begin=0.1)
    list(train(task, trainer, 3))
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    with pytest.raises(DataError, match=r"penalty of hypersparse-art at 0 is not finite; nothing was changed"):
        list(train(task, trainer, 1, 3))
    for now, was in zip(task.model.parameters(), before, strict=True):
        assert bool(was.isfinite().all()) and torch.equal(now, was)
