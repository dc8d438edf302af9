"""Threads that share a core are noticed, and waited for as long as there is patience."""

import pytest
import torch

from rarefy import ops
from rarefy.engine import steady as module
from rarefy.engine.steady import Steady, steady


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(("together", "said"), [(1.0, True), (1.2, True), (1.3, False), (2.0, False)])
def test_all_threads_take_as_long_as_one(together, said):
    assert Steady(lambda: 1.0, lambda: together)() is said


def test_patience_runs_while_the_answer_is_no(clock):
    asked = Steady(lambda: 1.0, lambda: 2.0, patience=5.0)
    assert not asked()
    clock[0] += 3.0
    assert not asked() and asked.patience == 2.0
    clock[0] += 2.5
    assert asked() and asked.patience < 0.0
    assert asked()  # for good


def test_no_patience_is_spent_while_the_answer_is_yes(clock):
    times = iter([2.0, 1.0, 1.0])
    asked = Steady(lambda: 1.0, lambda: next(times), patience=5.0)
    assert not asked()
    clock[0] += 1.0
    assert asked() and asked.patience == 4.0
    clock[0] += 100.0
    assert asked() and asked.patience == 4.0


def test_the_fastest_time_alone_is_what_counts():
    alone = iter([1.0, 1.6, 1.5])
    asked = Steady(lambda: next(alone), lambda: 1.6, patience=5.0)
    assert [asked.now() for _ in range(3)] == [False, False, False]


@pytest.mark.skipif(not ops.available(), reason="the native module is not built")
def test_it_asks_the_machine_with_as_many_threads_as_torch_has():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert steady() is None  # one thread shares with nobody
        torch.set_num_threads(64)
        assert steady() is None
        torch.set_num_threads(2)
        asked = steady()
        assert asked is steady() and asked() in (True, False)
    finally:
        torch.set_num_threads(before)
