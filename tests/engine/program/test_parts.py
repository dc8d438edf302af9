"""The parts of the lowering: memory shared only by what is not alive together, facts that hold, sizes as products."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from needs import needs_native
from rarefy.engine import fuse_attention
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import rewrite
from rarefy.engine.program import with_programs
from rarefy.engine.program.facts import Count, Same, Spread, facts_of
from rarefy.engine.program.lower_layers import norm_arguments
from rarefy.engine.program.sizes import ONE, Size, is_row_major, product, row_major
from rarefy.engine.program.slots import slots_of
from rarefy.engine.program.values import Buffer


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=25))
def test_buffers_that_are_alive_together_have_slots_of_their_own(steps):
    buffers = [Buffer(Size(4 * (i + 1), ("s0",))) for i in range(10)]
    named = [[buffers[i] for i in step] for step in steps]
    slots = slots_of(named, {"s0": 7})
    first, last = {}, {}
    for at, step in enumerate(named):
        for buffer in step:
            first.setdefault(buffer, at)
            last[buffer] = at
    for a in first:
        for b in first:
            if a is not b and slots[a] == slots[b]:
                assert last[a] < first[b] or last[b] < first[a]


def test_a_step_writes_over_what_nothing_reads_later():
    a, b, c = (Buffer(Size(8)) for _ in range(3))
    slots = slots_of([[a], [a, b], [b, c]], {}, {b: a})
    assert slots[a] == slots[b] != slots[c]
    slots = slots_of([[a], [a, b], [a, b, c]], {}, {b: a})  # a is read again
    assert len(set(slots.values())) == 3
    small = Buffer(Size(4))
    assert len(set(slots_of([[a], [a, small]], {}, {small: a}).values())) == 2


def test_memory_that_was_written_over_is_free_after_its_last_reader():
    a, b, c, d = (Buffer(Size(8)) for _ in range(4))
    slots = slots_of([[a], [a, b], [b, c], [c, d]], {}, {b: a})
    assert slots[d] == slots[a] == slots[b] and slots[c] != slots[d]


def test_a_chain_needs_two_slots():
    chain = [Buffer(Size(8)) for _ in range(6)]
    slots = slots_of([[a, b] for a, b in itertools.pairwise(chain)], {})
    assert len(set(slots.values())) == 2


def test_sizes_are_products():
    a, b = Size(3, ("n",)), Size(2, ("m", "n"))
    assert (a * b).at({"n": 5, "m": 7}) == 3 * 5 * 2 * 7 * 5
    assert product([]) == ONE
    sizes = (Size(1, ("n",)), Size(4), Size(6))
    assert row_major(sizes) == (Size(24), Size(6), Size(1))
    assert is_row_major(sizes, (Size(24), Size(6), ONE)) and not is_row_major(sizes, (Size(24), Size(7), ONE))
    assert is_row_major((ONE, Size(4)), (Size(99), ONE))


class Whole(nn.Module):
    """Whole numbers of every kind that is told apart, and some that are not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.arange(32).unsqueeze(0))
        self.register_buffer("zeros", torch.zeros(1, 32, dtype=torch.long))
        self.register_buffer("odd", torch.tensor([[0, 1, 3, 3]]))

    def forward(self, mask):
        n = mask.shape[1]
        true = mask.to(torch.bool)
        rows, keys = torch.arange(mask.shape[0]), torch.arange(n)
        spread = true[rows[:, None, None, None], keys[None, None, None, :]]
        causal = keys[None, None, :, None] >= keys[None, None, None, :]
        return self.places[:, :n], self.zeros[:, :n] + 0, self.odd + 0, spread, spread & causal, true[:, :2], keys >= 0


def test_facts():
    graph = capture(Whole(), as_example((torch.ones(3, 6, dtype=torch.long),)))
    facts = facts_of(graph)
    places, zeros, odd, spread, causal, some, all_true = graph.graph.output_node().args[0]
    assert facts[places] == Count(1, 2)
    assert facts[zeros] == Same(0)
    assert isinstance(facts[odd], Spread) and facts[odd].source.op != "placeholder"
    assert isinstance(facts[spread], Spread) and facts[spread].axes == (0, 3)
    assert facts[causal] == Spread(causal, (0, 1, 2, 3), 4)  # nothing is known of it but itself
    assert facts[some].source is some
    assert facts[all_true] == Same(1)


class Attending(nn.Module):
    def __init__(self, causal):
        super().__init__()
        self.causal = causal

    def forward(self, x, mask):
        keys = torch.arange(x.shape[1])
        true = mask.to(torch.bool)
        allowed = true[torch.arange(x.shape[0])[:, None, None, None], keys[None, None, None, :]]
        if self.causal:
            allowed = allowed & (keys[None, None, :, None] >= keys[None, None, None, :])
        else:
            allowed = allowed & (keys >= 0)[None, None, :, None]
        x = x.unsqueeze(1)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x, allowed)


@needs_native
@pytest.mark.parametrize("causal", [False, True])
def test_masks_are_shortened_only_where_they_repeat(causal):
    model = Attending(causal)
    x, mask = torch.randn(3, 6, 8), torch.ones(3, 6, dtype=torch.long)
    graph, _ = rewrite(capture(model, as_example((x, mask))), {}, {})
    attention = next(n for n in graph.graph.nodes if "attention" in str(n.target) and n.op == "call_function")
    assert (attention.args[3].target is torch.ops.aten.unsqueeze.default) is not causal
    for batch, tokens in ((3, 6), (2, 9)):
        x, mask = torch.randn(batch, tokens, 8), torch.ones(batch, tokens, dtype=torch.long)
        mask[0, tokens - 2 :] = 0
        torch.testing.assert_close(graph(x, mask), model(x, mask), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("given", [2, 3, 4, 5, 6])
def test_what_a_norm_leaves_out_is_as_layer_norm_has_it(given: int) -> None:
    """An exported graph leaves out trailing arguments that are as by default, which of them depends on torch."""
    graph = torch.fx.Graph()
    x, weight, bias = (graph.placeholder(name) for name in ("x", "weight", "bias"))
    whole = (x, [8], weight, bias, 1e-3, True)
    node = graph.call_function(torch.ops.aten.layer_norm.default, whole[:given])
    assert norm_arguments(node) == (*whole[:given], *(None, None, 1e-5)[given - 2 :])[:5]


@needs_native
def test_a_norm_with_the_usual_epsilon_is_part_of_a_program() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(16) + 0.5)

        def forward(self, x):
            return nn.functional.layer_norm(1e-3 * nn.functional.gelu(x) + x * 1e-3, (16,), self.weight)

    model, x = Normed().eval(), torch.randn(3, 5, 16)
    graph, _ = rewrite(capture(model, as_example(x)), {}, {})
    assert with_programs(graph) == 1
    with torch.inference_mode():
        torch.testing.assert_close(graph(x), model(x), rtol=1e-5, atol=1e-5)


class Between(nn.Module):
    """Attention between norms, with an operation of torch's before it; later: its mask comes from behind the norms."""

    def __init__(self, later: bool) -> None:
        super().__init__()
        self.later = later
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(5))
        for norm in self.norms:
            nn.init.normal_(norm.weight)

    def forward(self, x, mask):
        first, *norms, last = self.norms
        y = torch.tanh(first(x))
        q, k, v = (norm(y) for norm in norms)
        allowed = (torch.cos(v)[:, :, 0] > 0.3) | mask if self.later else mask
        q, k, v = (t.view(*t.shape[:2], 2, 8).transpose(1, 2) for t in (q, k, v))
        z = torch.nn.functional.scaled_dot_product_attention(q, k, v, allowed[:, None, None, :])
        return last(z.transpose(1, 2).reshape(x.shape))


@needs_native
@pytest.mark.parametrize("later", [False, True])
def test_views_are_read_in_the_program_that_fills_their_memory(later, monkeypatch):
    """Programs before and behind operations of torch's; a view's memory is not given from one to the next."""
    monkeypatch.setattr(fuse_attention, "_time", lambda *sizes: True)
    model = Between(later).eval()
    x, mask = torch.randn(3, 6, 16), torch.ones(3, 6, dtype=torch.bool)
    mask[1:, 4:] = False
    graph, _ = rewrite(capture(model, as_example((x, mask))), {}, {})
    assert with_programs(graph) == (3 if later else 2)
    for batch, tokens in ((3, 6), (2, 9)):
        x, mask = torch.randn(batch, tokens, 16), torch.ones(batch, tokens, dtype=torch.bool)
        mask[0, tokens - 2 :] = False
        with torch.inference_mode():
            torch.testing.assert_close(graph(x, mask), model(x, mask), atol=1e-5, rtol=1e-5)
