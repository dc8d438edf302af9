"""Trainers are not copied."""

import copy
import pickle

import pytest

from rarefy.core.errors import ModelError
from rarefy.ops import available
from training.loops import mlp, start, train


@pytest.mark.parametrize("runtime", ["dense", *(["sparse", "auto"] if available() else [])])
def test_copies_of_a_trainer_are_refused_and_it_goes_on(runtime: str) -> None:
    task = mlp(width=32)
    trainer, made = start(task, "rigl", every=4, runtime=runtime)
    list(train(task, trainer, 3))
    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(ModelError, match=r"rigl.*cannot be copied.*state_dict"):
            attempt((task.model, made, trainer) if attempt is not copy.copy else trainer)
    other = mlp(width=32)
    straight, _ = start(other, "rigl", every=4, runtime=runtime)
    expected = list(train(other, straight, 8))
    assert list(train(task, trainer, 5, 3)) == expected[3:]
