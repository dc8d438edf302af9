"""Children of a process that has used the library, and processes and threads that use it side by side."""

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from rarefy.engine import shared
from rarefy.engine.cache import Record, TimingCache

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 16)).eval()


def compiled(model: nn.Module | None = None) -> Any:
    model = network() if model is None else model
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    return rarefy.compile(model, [torch.ones(16, 64), torch.ones(1, 64)], measure=False)


def inputs() -> torch.Tensor:
    return torch.randn(16, 64, generator=torch.Generator().manual_seed(1))


def in_child(work: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether `work` is true in a forked child, which has so long."""
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking a process with threads: what is tested
        child = context.Process(target=lambda: os._exit(0 if work() else 3))
        child.start()
    child.join(seconds)
    hung = child.is_alive()
    child.kill()
    assert not hung, "the child hangs"
    return child.exitcode == 0


@posix
@pytest.mark.parametrize("threads", [1, 2])
def test_a_compiled_model_runs_in_forked_children(threads: int) -> None:
    """Also where the parent's thread pool was at work, whose threads the child does not have."""
    fast, x = compiled(), inputs()
    torch.set_num_threads(threads)
    with torch.inference_mode():
        want = fast(x)

        def again() -> bool:
            torch.set_num_threads(1)  # GNU's OpenMP forgets its threads at a fork only where none are asked for
            return torch.equal(fast(x), want) and torch.equal(compiled()(x), want)

        assert all(in_child(again) for _ in range(2))
        torch.set_num_threads(1)
        assert torch.equal(fast(x), want)


def _spawned(folder: str, results: Any) -> None:
    torch.set_num_threads(1)
    with torch.inference_mode():
        results.put(rarefy.load(folder, model=network(1))(inputs()).tolist())


def test_a_spawned_process_shares_the_packed_weights(tmp_path: Any) -> None:
    """At once with this one; both find the cache empty, and neither breaks it for the other."""
    fast = compiled()
    rarefy.save(fast, tmp_path / "model")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    child = context.Process(target=_spawned, args=(str(tmp_path / "model"), results))
    child.start()
    with torch.inference_mode():
        here = rarefy.load(tmp_path / "model", model=network(1))(inputs())
        want = fast(inputs())
    there = torch.tensor(results.get(timeout=300))
    child.join(60)
    assert child.exitcode == 0
    assert torch.allclose(here, want, atol=1e-5) and torch.equal(here, there)


def _writes(folder: Any, number: int) -> bool:
    times = TimingCache(folder)
    for i in range(20):
        times.put(f"{number} {i}", Record({"dense": 1.0 + i}))
        known = times.get(f"{number} {i}")
        if known is None or known.ms["dense"] != 1.0 + i:
            return False
    return True


@posix
def test_processes_that_write_times_at_once_lose_none(tmp_path: Any) -> None:
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        children = [context.Process(target=lambda n=n: os._exit(0 if _writes(tmp_path, n) else 3)) for n in range(4)]
        for child in children:
            child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    assert TimingCache(tmp_path).describe()["cells"] == 80


@posix
def test_processes_that_pack_and_clear_at_once_never_fail(tmp_path: Any) -> None:
    """One removes what the others have mapped or are about to read: they pack again, or keep their pages."""
    folder = tmp_path / "model"
    rarefy.save(compiled(), folder)
    with torch.inference_mode():
        want = rarefy.load(folder, model=network(1))(inputs())

    def loads() -> bool:
        with torch.inference_mode():
            return all(torch.equal(rarefy.load(folder, model=network(1))(inputs()), want) for _ in range(6))

    def clears() -> bool:
        for _ in range(30):
            shared.clear_packed()
        return True

    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        children = [context.Process(target=lambda w=w: os._exit(0 if w() else 3)) for w in (loads, clears, loads)]
        for child in children:
            child.start()
    for child in children:
        child.join(120)
        assert child.exitcode == 0


def test_calls_go_on_while_other_threads_compile() -> None:
    fast, x = compiled(), inputs()
    models = [network() for _ in range(2)]  # one generator, seeded by all threads: not drawn in them
    with torch.inference_mode():
        want = fast(x)
    wrong: list[str] = []
    stop = threading.Event()

    def calls() -> None:
        with torch.inference_mode():
            while not stop.is_set():
                if not torch.equal(fast(x), want):
                    wrong.append("other bits while another thread compiles")
                    return

    def compiles() -> None:
        try:
            other = compiled(models.pop())
            with torch.inference_mode():
                if not torch.equal(other(x), want):
                    wrong.append("two threads that compile give different models")
        except Exception as error:
            wrong.append(repr(error))

    callers = [threading.Thread(target=calls) for _ in range(2)]
    compilers = [threading.Thread(target=compiles) for _ in range(2)]
    for thread in (*callers, *compilers):
        thread.start()
    for thread in compilers:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the threads of a process")
def test_no_threads_are_left_behind() -> None:
    compiled()(inputs())
    before = threading.active_count()
    compiled()(inputs())
    assert threading.active_count() == before
