"""Whether this thread and the workers flush is found out by computing, not by asking a flag."""

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


def test_the_setting_does_not_reach_the_workers(two_threads):
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush")
    assert flushes() == (True, False)
