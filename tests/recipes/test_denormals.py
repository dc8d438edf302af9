"""Whether this thread and the workers flush is found out by computing, not by asking a flag."""

import os
import subprocess
import sys

import pytest
import torch

from rarefy.recipes.denormals import flushes


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


def test_the_setting_of_this_thread_is_seen(two_threads):
    assert flushes()[0] is False
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush")
    assert flushes()[0] is True


def test_one_thread_has_no_workers(two_threads):
    torch.set_num_threads(1)
    assert flushes()[1] is None


PROGRAM = """
import torch
from rarefy.recipes.denormals import flushes
torch.set_num_threads(2)
first = flushes()  # makes the workers: a new thread begins with the setting of the one that makes it
print(torch.set_flush_denormal(True), *first, *flushes())
"""


def test_the_setting_does_not_reach_workers_that_are_there():
    """In a process of its own: here an earlier test may have made the workers, with any setting."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    can, *found = done.stdout.split()
    if can == "False":
        pytest.skip("this CPU cannot flush")
    assert found == ["False", "False", "True", "False"]
