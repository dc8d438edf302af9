"""Thousands of compiled calls from four threads: the same bits as from one, no memory kept, nothing left behind."""

import gc
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rarefy
from engine.decoder.language_models import build, compiled, tokens
from engine.program.conftest import encoder, graphs, inputs, plans, tensors
from rarefy import ops
from rarefy.ops import native

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
THREADS = 4
ALLOWED_GROWTH = 12 << 20  # bytes; a result that every call kept would be many times this

Calls = list[Callable[[], Tensor]]


def network() -> Calls:
    """A perceptron whose layers are sparse, at several token counts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 200), nn.GELU(), nn.Linear(200, 64), nn.ReLU(), nn.Linear(64, 96)).eval()
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    fast = rarefy.compile(model, [torch.randn(32, 96), torch.randn(1, 96)])
    given = [torch.randn(rows, 96) for rows in (1, 3, 16, 33, 70, 128)]
    return [lambda x=x: fast(x) for x in given]  # type: ignore[misc]


def program() -> Calls:
    """An encoder as a native program, at several batches and lengths."""
    model = encoder("distilbert")
    run = graphs(model, inputs("distilbert", 3, 10), plans(model))[0]
    given = [inputs("distilbert", 1 + i % 4, 5 + 6 * i, seed=i) for i in range(6)]
    return [lambda call=call: tensors(run(**call))[0] for call in given]  # type: ignore[misc]


def decoder() -> Calls:
    """A language model that writes, from prompts of several lengths."""
    fast = compiled(build("llama"))
    given = [tokens(1 + i % 3, 3 + 5 * i, seed=i) for i in range(5)]
    return [lambda ids=ids: fast.generate(ids, max_new_tokens=6, do_sample=False) for ids in given]  # type: ignore[misc]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def hammer(calls: Calls, rounds: int) -> list[str]:
    """Runs every call `rounds` times in each thread, all starting at once, in another order; what went wrong."""
    with torch.inference_mode():
        want = [call() for call in calls]
    wrong: list[str] = []
    start = threading.Barrier(THREADS)

    def work(number: int) -> None:
        start.wait()
        with torch.inference_mode():
            for i in range(rounds * len(calls)):
                at = (number + i * (1 + 2 * number)) % len(calls)
                try:
                    if not torch.equal(calls[at](), want[at]):
                        wrong.append(f"thread {number}, call {i} of input {at}: other bits")
                except Exception as error:
                    wrong.append(f"thread {number}, call {i}: {error!r}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


@pytest.mark.parametrize(("make", "rounds"), [(network, 60), (program, 25), (decoder, 6)])
def test_four_threads_give_the_bits_of_one(
    make: Callable[[], Calls], rounds: int, monkeypatch: pytest.MonkeyPatch, prefer: Callable[..., None]
) -> None:
    prefer("graph")  # what is computed natively is tested, not what is fastest on this machine today
    monkeypatch.setattr("rarefy.engine.fuse_attention._time", lambda *sizes: True)
    gc.collect()
    alive = native.module().live_objects()  # type: ignore[union-attr]
    calls = make()
    assert native.module().live_objects() > alive  # type: ignore[union-attr]
    assert hammer(calls, max(1, rounds // 4)) == []  # every thread's own memory is there afterwards
    before = resident()
    assert hammer(calls, rounds) == []
    assert resident() - before < ALLOWED_GROWTH
    del calls
    gc.collect()
    assert native.module().live_objects() == alive  # type: ignore[union-attr]
