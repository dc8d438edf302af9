"""What `rarefy.compile` and `rarefy.prune` refuse at the door, by name."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import DataError, EngineError, SparsityError

X = torch.randn(4, 64)
# In a process of its own: the checker of types that stands before every function in the tests would answer first.
STRANGE = """
import torch, rarefy
from torch import nn
x, model = torch.randn(4, 64), nn.Sequential(nn.Linear(64, 64))
for call in (
    lambda: rarefy.compile(None, x), lambda: rarefy.compile(nn.Linear, x), lambda: rarefy.compile(lambda x: x, x),
    lambda: rarefy.prune(None, "magnitude", sparsity=0.5), lambda: rarefy.prune(nn.Linear, "magnitude", sparsity=0.5),
    lambda: rarefy.compile(model, x, threads=1.5), lambda: rarefy.compile(model, x, threads="2"),
    lambda: rarefy.prune(model, "magnitude", target_speedup="2", example_inputs=x),
):
    try:
        call()
        print("taken")
    except Exception as error:
        print(type(error).__name__, error)
"""


def mlp() -> nn.Module:
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    rarefy.prune(model, "magnitude", sparsity=0.85, measure=False)
    return model


def test_strange_arguments_are_named() -> None:
    done = subprocess.run([sys.executable, "-c", STRANGE], capture_output=True, text=True, check=True)
    model, count = " is not an nn.Module; give the model itself", " is no positive whole number; give a count or None"
    assert done.stdout.splitlines() == [
        f"ModelError compile: NoneType{model}",
        f"ModelError compile: the class Linear{model}",
        f"ModelError compile: function{model}",
        f"ModelError model: NoneType{model}",
        f"ModelError model: the class Linear{model}",
        f"EngineError compile: threads=1.5{count}",
        f"EngineError compile: threads='2'{count}",
        "SparsityError target_speedup: '2' is not a number; give e.g. 2.0 for twice as fast",
    ]


@pytest.mark.parametrize("threads", [0, -1, True])
def test_threads_are_a_count(threads) -> None:
    said = f"compile: threads={threads} is no positive whole number; give a count or None"
    with pytest.raises(EngineError, match=re.escape(said)):
        rarefy.compile(mlp(), X, threads=threads)


def test_a_batch_of_arrays_is_blamed() -> None:
    with pytest.raises(DataError, match=r"data\[1\]: Sequential does not take this batch"):
        rarefy.compile(mlp(), X, weights="int8", activations="int8", data=[X, X.numpy()])


def test_true_is_no_speed() -> None:
    with pytest.raises(SparsityError, match=r"target_speedup: True is not a number; give e\.g\. 2\.0"):
        rarefy.prune(mlp(), "magnitude", target_speedup=True, example_inputs=X)
