"""The module that runs a program: sizes are checked, memory is kept, threads may share it, times are told."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from engine.program.conftest import encoder, graphs, inputs, plans, tensors
from rarefy import ops
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.program import Refused, outside, with_programs

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")


@pytest.fixture(scope="module")
def distilbert():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rarefy.engine.fuse_attention._time", lambda *sizes: True)
        model = encoder("distilbert")
        return model, graphs(model, inputs("distilbert", 3, 10), plans(model))[0]


def given(run, call):
    """What the graph calls its program with: older versions of transformers (4.50) make a mask of floats before it."""
    seen = []
    handle = run.program_0.register_forward_pre_hook(lambda _, args: seen.append(args))
    run(**call)
    handle.remove()
    return seen[0]


def test_no_allocation_in_the_steady_state(distilbert):
    _, run = distilbert
    region = run.program_0
    run(**inputs("distilbert", 6, 40))
    before = region.allocations
    assert before >= 2  # an arena, and its memory: what is counted below would have been counted here
    for batch, tokens in ((6, 40), (1, 3), (3, 10), (6, 39), (2, 40)):
        for _ in range(20):
            run(**inputs("distilbert", batch, tokens))
    assert region.allocations == before
    run(**inputs("distilbert", 7, 60))
    assert region.allocations == before + 1


def test_calls_from_several_threads(distilbert):
    _model, run = distilbert
    calls = [inputs("distilbert", 1 + i % 4, 5 + 3 * i, seed=i) for i in range(8)]
    with torch.inference_mode():
        want = [tensors(run(**call))[0] for call in calls]
        assert not torch.equal(want[0], want[4])
    failed = []

    def work(start):
        with torch.inference_mode():
            for i in range(60):
                at = (start + i) % len(calls)
                if not torch.equal(tensors(run(**calls[at]))[0], want[at]):
                    failed.append((start, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_outputs_are_not_shared_between_calls(distilbert):
    _, run = distilbert
    first = tensors(run(**inputs("distilbert", 2, 6)))[0]
    kept = first.clone()
    run(**inputs("distilbert", 2, 6, seed=1))
    assert torch.equal(first, kept)


def test_inputs_with_gaps(distilbert):
    _, run = distilbert
    call = inputs("distilbert", 4, 10)
    wide = {name: torch.stack([x, x], -1)[..., 0] for name, x in call.items()}
    assert not wide["input_ids"].is_contiguous()
    assert torch.equal(tensors(run(**wide))[0], tensors(run(**call))[0])


def test_sizes_that_disagree_are_refused(distilbert):
    _, run = distilbert
    ids, mask = given(run, inputs("distilbert", 3, 10))
    region = run.program_0
    for wrong in ((ids, mask[:2]), (ids, mask[..., :9]), (ids.int(), mask), (ids[0], mask)):
        with pytest.raises(Refused, match="program:"):
            region(*wrong)


def test_profile_names_every_step(distilbert):
    _model, run = distilbert
    call = inputs("distilbert", 3, 10)
    out, times = run.program_0.profile(*given(run, call))
    assert torch.equal(out, tensors(run(**call))[0])
    kinds = [kind for kind, _ in times]
    assert kinds.count("linear") == 8 and kinds.count("linear pair") == 2
    assert len(times) == len(run.program_0.kinds) and all(ms > 0 for _, ms in times)


class Entries(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.row = nn.Parameter(torch.randn(features))
        self.norm = nn.LayerNorm(features)

    def forward(self, x, y):
        z = F.silu(x) * y + self.row
        z = F.gelu(z) + F.gelu(y, approximate="tanh")
        total = z + F.relu(x)
        return total, self.norm(total) + y


@pytest.mark.parametrize("features", [1, 3, 8, 17, 33, 4097])
def test_entry_by_entry(features):
    torch.manual_seed(0)
    model = Entries(features).eval()
    sample = (torch.randn(3, 5, features), torch.randn(3, 5, features))
    graph, _ = rewrite(capture(model, as_example(sample)), {}, {})
    assert with_programs(graph) == 1
    assert outside(graph) == "1 native program(s) of 9 steps, 0 operations in torch"
    assert graph.program_0.kinds.count("norm") == 1 and graph.program_0.kinds.count("combine") == 4
    for batch, tokens in ((3, 5), (1, 1), (2, 130)):
        x, y = torch.randn(batch, tokens, features), torch.randn(batch, tokens, features)
        with torch.inference_mode():
            for got, want in zip(graph(x, y), model(x, y), strict=True):
                torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_what_is_not_understood_stays_in_torch_between_programs():
    class Sorted(nn.Module):
        def forward(self, x):
            x = F.relu(F.gelu(x) + x)
            x = x.sort(-1).values
            return F.silu(x * x)

    x = torch.randn(3, 4, 9)
    graph, _ = rewrite(capture(Sorted(), as_example((x,))), {}, {})
    assert with_programs(graph) == 2
    assert "operations in torch (getitem, sort)" in outside(graph) or "(sort)" in outside(graph)
    torch.testing.assert_close(graph(x), Sorted()(x), atol=1e-5, rtol=1e-5)
