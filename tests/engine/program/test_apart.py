"""Programs by parts of the batch: the same to the last bit, and only where the entries of a batch never meet."""

import importlib
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from engine.program.conftest import encoder, graphs, inputs, plans, tensors
from rarefy import ops
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.program import Refused, Region, in_parts, with_programs
from rarefy.engine.program.apart import batch_of
from rarefy.engine.program.lower_entries import COUNTING
from rarefy.engine.program.sizes import ONE, ZERO, Size
from rarefy.engine.program.values import ABSENT, Buffer, Part

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
B, C, L = (Size(1, (name,)) for name in "BCL")
X, Y = Part(Buffer(ONE, argument=0)), Part(Buffer(ONE))


def of(kind, stored="fp32"):
    model = encoder(kind)
    return graphs(model, inputs(kind, 3, 10), plans(model, stored))[0]


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("bert", "fp32"), ("bert", "int8"), ("roberta", "fp32"), ("distilbert", "int8"), ("vit classifier", "fp32")],
)
def test_parts_give_the_very_bits_of_the_whole(kind, stored):
    whole = of(kind, stored)
    for each in (1, 2, 4):
        run = in_parts(whole, each)
        assert run.program_0.apart == each
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for batch, tokens in ((1, 7), (2, 9), (3, 10), (5, 4), (9, 33)):
                call = inputs(kind, batch, tokens, seed=each)
                for got, want in zip(tensors(run(**call)), tensors(whole(**call)), strict=True):
                    assert torch.equal(got, want)


def calls_of(run, monkeypatch):
    """(entries of a part or 0, threads) of every native call from now on."""
    seen, each = [], Region._each

    def note(self, symbols, threads):
        seen.append((each(self, symbols, threads), threads))
        return seen[-1][0]

    monkeypatch.setattr(Region, "_each", note)
    return seen


def test_every_thread_has_something_to_do(monkeypatch):
    run = in_parts(of("distilbert"), 4)
    seen = calls_of(run, monkeypatch)
    for threads, batch, each in (
        (2, 16, 4),
        (2, 6, 3),
        (2, 3, 2),
        (2, 2, 1),
        (2, 1, 0),
        (4, 3, 0),
        (1, 9, 4),
        (1, 4, 0),
    ):
        torch.set_num_threads(threads)
        run(**inputs("distilbert", batch, 5))
        assert seen[-1] == (each, threads), (threads, batch)


class Noting:
    """A native program that says how it was called."""

    def __init__(self, program):
        self.program, self.seen = program, []

    def __getattr__(self, name):
        def call(*given):
            self.seen.append((name, *given))
            return getattr(self.program, name)(*given)

        return call


def test_parts_are_computed_by_the_native_program_with_memory_for_a_part():
    torch.set_num_threads(2)
    whole = of("distilbert")
    run, call = in_parts(whole, 2), inputs("distilbert", 7, 33)
    region = run.program_0
    program = region._program
    region._program = Noting(program)
    run(**call)
    ((name, symbols, addresses, batch, each, steps, threads),) = region._program.seen
    assert (name, each, threads) == ("run_apart", 2, 2)
    assert {symbols[i] for i in batch} == {7} and 33 in symbols
    assert len(steps) == len(addresses) and steps[-1] == 33 * 48 * 4  # bytes of one entry of the output
    before = program.allocations
    run(**call)
    assert program.allocations == before
    whole(**call)  # no arena was large enough for the whole batch
    assert program.allocations > before


def test_no_allocation_in_the_steady_state():
    torch.set_num_threads(2)
    run = in_parts(of("bert"), 2)
    region = run.program_0
    for _ in range(3):
        run(**inputs("bert", 9, 40))
        run(**inputs("bert", 1, 40))
    before = region.allocations
    assert before >= 2
    for batch, tokens in ((9, 40), (1, 3), (5, 10), (8, 39), (2, 40)):
        for _ in range(20):
            run(**inputs("bert", batch, tokens))
    assert region.allocations == before


def test_calls_from_several_threads():
    torch.set_num_threads(2)
    whole = of("bert")
    run = in_parts(whole, 2)
    calls = [inputs("bert", 2 + i, 5 + 3 * i, seed=i) for i in range(6)]
    want = [tensors(whole(**call))[0] for call in calls]
    wrong = []

    def work(start):
        for i in range(40):
            at = (start + i) % len(calls)
            if not torch.equal(tensors(run(**calls[at]))[0], want[at]):
                wrong.append((start, i))

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_a_part_refuses_is_said_once_and_the_next_call_is_right(threads):
    torch.set_num_threads(threads)
    whole = of("distilbert")
    run = in_parts(whole, 1)
    call = inputs("distilbert", 5, 6)
    want = tensors(whole(**call))[0]
    call["input_ids"][1, 2], call["input_ids"][4, 0] = 99, -1
    kept = call["input_ids"].clone()
    for _ in range(10):
        with pytest.raises(
            IndexError, match="index 99 is outside a table of 99 rows"
        ):  # of the first part that has one
            run(**call)
    assert torch.equal(call["input_ids"], kept)
    assert torch.equal(tensors(run(**inputs("distilbert", 5, 6)))[0], want)


def test_sizes_that_disagree_are_refused():
    torch.set_num_threads(2)
    run = in_parts(of("distilbert"), 1)
    call = inputs("distilbert", 4, 10)
    call["attention_mask"] = call["attention_mask"][:3]
    with pytest.raises((Refused, AssertionError, RuntimeError)):
        run(**call)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_profile_adds_the_parts_up(threads):
    torch.set_num_threads(threads)
    run = in_parts(of("vit"), 2)
    seen = []
    handle = run.program_0.register_forward_pre_hook(lambda _, args: seen.append(args))
    want = tensors(run(**inputs("vit", 5, 0)))[0]
    handle.remove()
    out, times = run.program_0.profile(*seen[0])
    got = out if isinstance(out, torch.Tensor) else out[0]
    assert torch.equal(got, want) or any(torch.equal(o, want) for o in out)
    assert len(times) == len(run.program_0.kinds)
    assert all(ms > 0 for _, ms in times)


class AlongTheBatch(nn.Module):
    """Attends from an entry of the batch to the others."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.first(x).view(*x.shape[:2], 3, 4, 4).permute(2, 1, 3, 0, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.last(mixed.permute(2, 0, 1, 3).reshape(x.shape))


def test_entries_that_meet_are_not_taken_apart():
    torch.manual_seed(0)
    model, x = AlongTheBatch().eval(), torch.randn(6, 5, 16)
    packed = plans(model)
    graph, _ = rewrite(capture(model, as_example((x,))), packed, dict.fromkeys(packed, 1))
    assert with_programs(graph) > 0
    regions = [m for m in graph.modules() if isinstance(m, Region) and "attention" in m.kinds]
    assert len(regions) == 1 and regions[0].in_parts(1) is None
    for run in [graph, *(run for n in (1, 2) if (run := in_parts(graph, n)) is not None)]:
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


def row(*sizes):
    """(sizes, strides) of a tensor without gaps."""
    strides, at = [], ONE
    for size in reversed(sizes):
        strides.insert(0, at)
        at = at * size
    return sizes, tuple(strides)


STEP = ("activate", (X, B * L * Size(8), 0, Y))


def attention(full, strides=(ZERO,) * 3):
    return "attention", ((X, X, X, ABSENT, Y), False, (strides,) * 5, full, 4, 0.5, False)


@pytest.mark.parametrize(
    ("inputs", "outputs", "same", "steps", "want"),
    [
        ([(B, L, Size(8))], [row(B, L, Size(8))], [], [STEP], ("B",)),
        ([(B, L), (C, L)], [row(B, L, Size(8))], [(C, B)], [STEP], ("B", "C")),
        ([(B, L), (ONE, L)], [row(B, L, Size(8))], [], [STEP], ("B",)),  # one row for all entries
        ([(B, L), (C, L)], [row(B, L, Size(8))], [], [STEP], ("B",)),  # C belongs to another axis
        ([(B, L)], [], [], [STEP], ()),
        ([(B, L)], [row()], [], [STEP], ()),
        ([(B, L)], [row(Size(3), B)], [], [STEP], ()),
        ([(B, L)], [row(B, L), row(L, B)], [], [STEP], ()),
        ([(B, L)], [((B, L), (ONE, B))], [], [STEP], ()),  # column by column: entries lie between each other
        ([(L, B)], [row(B, L)], [], [STEP], ()),
        ([(B, B)], [row(B, L)], [], [STEP], ()),
        ([(B, L)], [row(B, L)], [(B, L)], [STEP], ()),  # as long as it is wide
        ([(B, L)], [row(B, L)], [(B, Size(2, ("L",)))], [STEP], ()),
        ([(B, L)], [row(B, L)], [], [("activate", (X, B * B, 0, Y))], ()),
        ([(B, L)], [row(B, L)], [], [("activate", (Part(X.buffer, B), L, 0, Y))], ()),
        ([(B, L)], [row(B, L)], [], [attention((B, Size(2), L, L))], ("B",)),
        ([(B, L)], [row(B, L)], [], [attention((L, Size(2), B, B))], ()),
        ([(B, L)], [row(B, L)], [], [attention((B, Size(2), L, L), (L, B, ONE))], ()),
        ([(B, L)], [row(B, L)], [], [("copy", (X, (L, B, ONE, ONE), (L, ONE, ONE), Y))], ("B",)),
        ([(B, L)], [row(B, L)], [], [("copy", (X, (L, B, ONE, ONE), (ONE, B, ONE), Y))], ()),
        ([(B, L)], [row(B, L)], [], [("embed", ([(X, 9, COUNTING, ABSENT, L, 0)], B * L, 8, Y))], ("B",)),
        ([(B, L)], [row(B, L)], [], [("embed", ([(X, 9, COUNTING, ABSENT, B, 0)], B * L, 8, Y))], ()),
        ([(B, L)], [row(B, L)], [], [("embed", ([(X, 9, 0, X, B * L, 0)], B * L, 8, Y))], ("B",)),
    ],
)
def test_what_is_a_batch(inputs, outputs, same, steps, want):
    assert batch_of(inputs, outputs, same, steps) == want


def test_the_variants_are_timed_where_every_thread_gets_some(tmp_path, monkeypatch, prefer):
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path))
    prefer("graph")
    model, seen = encoder("bert"), []
    said = {"source_ms": None, "compiled_ms": None, "speedup": None, "origin": "not timed"}

    def choose(names, key, measure):
        seen.append(set(names))
        return max(names, key=lambda name: "each thread" in name), said

    monkeypatch.setattr(importlib.import_module("rarefy.engine.fastest"), "choose", choose)
    for batch, tokens, threads, sizes in (
        (8, 60, 2, {2, 4}),  # of 8 no thread but one would have something
        (6, 60, 2, {2, 3}),
        (8, 60, 1, {2, 4}),
        (8, 10, 2, {4}),
        (2, 60, 2, set()),
        (3, 60, 4, set()),
    ):
        call = inputs("bert", batch, tokens)
        fast = rarefy.compile(model, call, threads=threads)
        wanted = {f"graph, {n} at a time on each thread" for n in sizes}
        assert {name for name in seen[-1] if "thread" in name} == wanted
        torch.testing.assert_close(fast(**call)[0], model(**call)[0], rtol=1e-4, atol=1e-5)
    assert "each thread" in str(rarefy.compile(model, inputs("bert", 8, 10), threads=2).explain())


def test_native_calls_that_make_no_sense():
    region = of("distilbert").program_0
    program, symbols = region._program, tuple(3 for _ in region.signature.symbols)
    addresses = tuple(0 for _ in (*region.signature.inputs, *region.signature.outputs))
    steps = [0] * len(addresses)
    for batch, each, wrong in (([], 1, steps), ([99], 1, steps), ([-1], 1, steps), ([0], 0, steps), ([0], 1, [0])):
        with pytest.raises(ValueError, match="parts of no batch"):
            program.run_apart(symbols, addresses, batch, each, wrong, 2)
