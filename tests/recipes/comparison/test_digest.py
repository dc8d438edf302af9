"""The same content has the same digest anywhere; anything else another."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from rarefy.core.errors import DataError
from rarefy.pruning.magnitude import magnitude
from rarefy.pruning.wanda import wanda
from rarefy.recipes.comparison.digest import digest
from recipes.comparison import problems


def test_one_bit_of_one_weight_counts():
    a, b = problems.model(), problems.model()
    assert digest(a) == digest(b)
    with torch.no_grad():
        b[2].bias[3] = torch.nextafter(b[2].bias[3], torch.tensor(9.0))
    assert digest(a) != digest(b)


def test_the_layers_count_even_where_the_weights_agree():
    linear = nn.Linear(2, 2)
    assert digest(nn.Sequential(linear, nn.ReLU())) != digest(nn.Sequential(linear, nn.GELU()))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("ab", "c"), ("a", "bc")),
        (1, 1.0),
        (1, "1"),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float16)),
        ([1, [2]], [1, 2]),
        ({"a": 1}, {"a": 2}),
        (wanda(), magnitude()),
        (None, False),
    ],
)
def test_what_differs_is_told_apart(a, b):
    assert digest(a) != digest(b)
    assert digest(a) == digest(a)


def test_a_function_counts_by_its_code_and_by_what_it_closes_over():
    def maker(factor):
        return lambda x: factor * x

    def other(factor):
        return lambda x: factor + x

    assert digest(maker(2)) == digest(maker(2))
    assert digest(maker(2)) != digest(maker(3))
    assert digest(maker(2)).encode() != digest(other(2)).encode()
    assert digest(partial(problems.counted, seconds=1)) != digest(partial(problems.counted, seconds=2))


def test_sets_do_not_depend_on_the_order_of_hashes():
    program = "from rarefy.recipes.comparison.digest import digest; print(digest({'a', 'b', 'cd', 'e'}))"
    path = ":".join(p for p in sys.path if p)
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": path}  # this process draws a seed of its own
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"a", "b", "cd", "e"})


def test_what_holds_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(DataError, match="holds itself"):
        digest(loop)


def test_paths_and_types_have_a_digest():
    assert digest(Path("a")) != digest(Path("b"))
    assert digest(int) != digest(float)
