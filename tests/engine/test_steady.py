"""Threads that share a core are noticed, and waited for as long as there is patience."""

from contextlib import contextmanager

import pytest
import torch

from rarefy import ops
from rarefy.engine import conv_times, plan
from rarefy.engine import steady as module
from rarefy.engine.steady import Steady, steady, timed
from rarefy.ops import Window


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


def asks(monkeypatch, together, patience):
    """What is asked on a machine whose threads take `together` times as long as one, call by call; torch has two."""
    times = iter(together)
    asked = Steady(lambda: 1.0, lambda: next(times), patience)
    monkeypatch.setattr(module, "steady", lambda: asked)
    monkeypatch.setattr(module.torch, "get_num_threads", lambda: 2)
    counts = []

    @contextmanager
    def threads(count):
        counts.append(count)
        yield
        counts.append(0)

    monkeypatch.setattr(module, "threads", threads)
    return asked, counts


def test_one_thread_is_timed_where_cores_come_and_go(monkeypatch, clock):
    asked, counts = asks(monkeypatch, [1.0, 2.0], patience=3.0)
    assert asked() and not asked()
    clock[0] += 4.0
    assert asked() and asked.comes_and_goes
    assert timed(lambda n: (n, list(counts)), 257, 128) == (129, [1])
    assert counts == [1, 0]
    assert timed(lambda n: (n, list(counts)), 255, 128) == (255, [1, 0])  # a part would be too small


def test_what_was_measured_as_patience_ran_out_is_measured_again(monkeypatch, clock):
    asked, _ = asks(monkeypatch, [1.0, 2.0], patience=3.0)
    seen = []

    def measure(n):
        seen.append(n)
        if n == 8:
            assert asked() and not asked()
            clock[0] += 4.0
            assert asked()
        return n

    assert timed(measure, 8) == 4 and seen == [8, 4]


def test_threads_that_never_had_a_core_each_are_timed_as_they_are(monkeypatch, clock):
    asked, counts = asks(monkeypatch, [2.0, 2.0], patience=3.0)
    assert not asked()
    clock[0] += 4.0
    assert asked() and not asked.comes_and_goes
    assert timed(lambda n: n, 8) == 8 and counts == []


def test_with_patience_left_all_threads_are_timed(monkeypatch):
    asked, counts = asks(monkeypatch, [1.0, 2.0], patience=3.0)
    assert asked() and not asked()
    assert timed(lambda n: n, 8) == 8 and counts == []


@pytest.mark.skipif(not ops.available(), reason="the native module is not built")
def test_a_layer_is_timed_by_one_thread_with_its_part(monkeypatch):
    asked, _ = asks(monkeypatch, [1.0], patience=3.0)
    assert asked()
    asked.patience = 0.0
    seen = []
    right = plan.F.linear
    monkeypatch.setattr(plan.F, "linear", lambda x, *rest: seen.append(len(x)) or right(x, *rest))
    plan.time_layer(torch.randn(16, 16), None, 600, [])
    plan.time_layer(torch.randn(16, 16), None, 200, [])
    assert set(seen[: seen.index(200)]) == {300} and set(seen[seen.index(200) :]) == {200}


@pytest.mark.skipif(not ops.available(), reason="the native module is not built")
def test_a_convolution_is_timed_by_one_thread_with_its_images(monkeypatch):
    asked, _ = asks(monkeypatch, [1.0], patience=3.0)
    assert asked()
    asked.patience = 0.0
    seen = []
    right = conv_times.conv2d
    monkeypatch.setattr(conv_times, "conv2d", lambda x, *rest: seen.append(len(x)) or right(x, *rest))
    for images in (6, 1):
        conv_times.time_conv(torch.randn(4, 4, 3, 3), Window(padding=(1, 1)), (images, 8, 8), [])
    assert set(seen) == {3, 1}


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
