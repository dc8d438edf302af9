"""Numbers that make no sense are refused by name when the trainer is made, and nothing is changed."""

import numpy as np
import pytest
import torch

import rarefy
from rarefy.core.errors import ModelError, SparsityError
from rarefy.schedules.cosine import Cosine
from rarefy.training.options import require_least, require_schedule, require_share, require_steps
from training.loops import mlp, sgd

WRONG = [
    ("rigl", {"fraction": 3.0}, "fraction: 3.0 is no share; give a number from 0 to 1"),
    ("rigl", {"fraction": -1}, "fraction: -1 is no share"),
    ("rigl", {"fraction": float("nan")}, "fraction: nan is no share"),
    ("set", {"fraction": 1.5}, "fraction: 1.5 is no share"),
    ("sparse-momentum", {"fraction": 2.0}, "fraction: 2.0 is no share"),
    ("rigl", {"every": True}, "every: True is not a positive whole number of steps"),
    ("rigl", {"every": 0}, "every: 0 is not a positive whole number of steps"),
    ("rigl", {"total_steps": True}, "total_steps: True is not a positive whole number of steps"),
    ("dst-ee", {"eps": -1}, "eps: -1 will not do; give a number above 0.0"),
    ("dst-ee", {"c": float("inf")}, "c: inf will not do; give a number of at least 0.0"),
    ("sr-ste", {"decay": -1}, "decay: -1 will not do; give a number of at least 0.0"),
    ("deep-rewiring", {"temperature": -1}, "temperature: -1 will not do"),
]


@pytest.mark.parametrize(
    ("name", "options", "said"), WRONG, ids=[f"{n}-{next(iter(o))}-{i}" for i, (n, o, _) in enumerate(WRONG)]
)
def test_a_number_that_makes_no_sense_is_named_at_once(name, options, said) -> None:
    task = mlp()
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    given = {"total_steps": 20} | ({} if name == "sr-ste" else {"sparsity": 0.8}) | options
    with pytest.raises(SparsityError, match=said):
        rarefy.sparse_training(task.model, sgd(task.model), name, **given)
    assert all(torch.equal(value, before[key]) for key, value in task.model.state_dict().items())


@pytest.mark.parametrize("value", ["a", None, True, 1.5, -0.1, float("nan"), [0.5]])
def test_shares(value) -> None:
    with pytest.raises(SparsityError, match=r"fraction: .* is no share; give a number from 0 to 1"):
        require_share("fraction", value)


@pytest.mark.parametrize("value", ["a", None, True, 2.5, 0, -3, float("inf")])
def test_steps(value) -> None:
    with pytest.raises(SparsityError, match=r"every: .* is not a positive whole number of steps"):
        require_steps("every", value)


@pytest.mark.parametrize("value", ["cosine", 0.5])
def test_schedules(value) -> None:
    with pytest.raises(SparsityError, match=r"schedule: .* is no schedule; give a function of the step"):
        require_schedule("schedule", value)


def test_numbers_of_numpy_and_functions_are_taken() -> None:
    for value in (0, 1, np.float32(0.25), np.float64(0.0), np.int64(1)):
        require_share("fraction", value)
    for value in (1, np.int64(7), torch.tensor(3)):
        require_steps("every", value)
    for schedule in (None, Cosine(0.3, 0.0, 20), float):
        require_schedule("schedule", schedule)
    require_least("c", 0)
    with pytest.raises(SparsityError, match=r"eps: 0 will not do; give a number above 0.0"):
        require_least("eps", 0, above=True)


def test_a_run_with_other_settings_is_refused_by_what_differs() -> None:
    task = mlp()
    kept = {"sparsity": 0.8, "total_steps": 20}
    state = rarefy.sparse_training(task.model, sgd(task.model), "rigl", every=5, fraction=0.2, **kept).state_dict()
    other = mlp()
    with pytest.raises(
        ModelError, match=r"settings differs: saved every=5, initial=0\.2, here every=7, initial=0\.3; make"
    ):
        rarefy.sparse_training(other.model, sgd(other.model), "rigl", every=7, state=state, **kept)
