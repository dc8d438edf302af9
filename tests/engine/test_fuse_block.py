"""Rewritten graphs: what is replaced, what stays, and that outputs are the model's at sizes it was not traced at."""

import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rarefy import ops
from rarefy.engine import fuse_attention as attention_pass
from rarefy.engine.capture import as_example, capture
from rarefy.engine.fuse import describe, rewrite

pytestmark = pytest.mark.skipif(not ops.available(), reason="the native module is not built")
TOLERANCE = 2e-4  # of the largest output
MEASURED = attention_pass._time


@pytest.fixture(autouse=True)
def always_faster(monkeypatch):
    """What is replaced is tested here, not how fast this machine is today; `test_slower_stays` tests the choice."""
    monkeypatch.setattr(attention_pass, "_time", lambda *sizes: True)


class Rewritten(NamedTuple):
    run: torch.fx.GraphModule
    norms: int
    attentions: int


def rewritten(model, inputs) -> Rewritten:
    return counted(capture(model, as_example(inputs)))


def counted(graph) -> Rewritten:
    run, done = rewrite(graph, {}, {})
    assert done == []
    called = [node.target for node in run.graph.nodes]
    norms = called.count(torch.ops.rarefy.add_layer_norm.default)
    attentions = called.count(torch.ops.rarefy.attention.default)
    assert describe(run, done) == (
        f"captured, 0 layers sparse in it, {norms} norms of sums and {attentions} attentions native"
    )
    return Rewritten(run, norms, attentions)


def targets(result):
    return [node.target for node in result.run.graph.nodes if node.op == "call_function"]


def assert_same(result, model, *args, **kwargs):
    with torch.inference_mode():
        got, want = result.run(*args, **kwargs), model(*args, **kwargs)
    got, want = (
        x if isinstance(x, torch.Tensor) else next(iter(x.values())) if isinstance(x, dict) else x[0]
        for x in (got, want)
    )
    assert got.shape == want.shape
    assert (got - want).abs().max() <= TOLERANCE * want.abs().max()
    assert want.std() > 0.01  # outputs that would all look alike prove nothing


def text(batch, tokens, padded=True, seed=0):
    ids = torch.randint(3, 90, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(batch):
            mask[row, max(1, tokens - 2 * row) :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def encoder(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "vocab_size": 99,
    }
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=64)).eval()
    if kind == "roberta":
        config = transformers.RobertaConfig(**sizes, max_position_embeddings=70, pad_token_id=1)
        return transformers.RobertaModel(config).eval()
    config = transformers.DistilBertConfig(dim=48, n_layers=2, n_heads=3, hidden_dim=80, vocab_size=99)
    return transformers.DistilBertModel(config).eval()


@pytest.mark.parametrize(("kind", "norms"), [("bert", 5), ("roberta", 5), ("distilbert", 5)])
def test_text_encoders(kind, norms):
    model = encoder(kind)
    result = rewritten(model, text(3, 10))
    assert (result.attentions, result.norms) == (2, norms)
    assert targets(result).count(torch.ops.rarefy.attention.default) == 2
    assert targets(result).count(torch.ops.rarefy.add_layer_norm.default) == norms
    assert torch.ops.aten.layer_norm.default not in targets(result)
    for batch, tokens in ((3, 10), (2, 33), (5, 7)):
        assert_same(result, model, **text(batch, tokens))
        assert_same(result, model, **text(batch, tokens, padded=False))


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_plain_transformer_encoder(norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()

    def inputs(batch, tokens):
        hidden = torch.zeros(batch, tokens, dtype=torch.bool)
        hidden[0, tokens - 2 :] = True
        return {
            "src": torch.randn(batch, tokens, 32, generator=torch.Generator().manual_seed(tokens)),
            "src_key_padding_mask": hidden,
        }

    result = rewritten(model, inputs(3, 9))
    # where the norm comes first its sum is read by the next addition as well, and stays
    assert (result.attentions, result.norms) == (2, 0 if norm_first else 4)
    for batch, tokens in ((3, 9), (2, 20), (4, 5)):
        assert_same(result, model, **inputs(batch, tokens))


class Attention(nn.Module):
    def __init__(self, key_heads=None, **options):
        super().__init__()
        self.key_heads, self.options = key_heads, options

    def forward(self, q, k, v):
        k, v = k[:, : self.key_heads], v[:, : self.key_heads]
        return F.scaled_dot_product_attention(q, k, v, **self.options)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Attention(is_causal=True), (2, 4, 6, 8)),
        (Attention(dropout_p=0.1), (2, 4, 6, 8)),
        (Attention(key_heads=2, enable_gqa=True), (2, 4, 6, 8)),
        (Attention(), (4, 6, 8)),
        (Attention(key_heads=1), (2, 4, 6, 8)),
    ],
    ids=["causal", "dropout", "grouped queries", "three axes", "heads that broadcast"],
)
def test_attention_that_stays(model, shape):
    inputs = tuple(torch.randn(shape) for _ in range(3))
    graph = capture(model.eval(), as_example(inputs))
    before = str(graph.graph)
    result = counted(graph)
    assert result.attentions == 0
    assert torch.ops.aten.scaled_dot_product_attention.default in targets(result)
    assert before == str(result.run.graph)


@pytest.mark.parametrize("scale", [None, 0.7])
def test_the_scale_is_the_models(scale):
    model, q = Attention(scale=scale).eval(), torch.randn(2, 3, 9, 16)
    result = rewritten(model, (q, q, q))
    assert result.attentions == 1
    node = next(n for n in result.run.graph.nodes if n.target is torch.ops.rarefy.attention.default)
    assert node.args[4] == pytest.approx(1 / math.sqrt(16) if scale is None else 0.7)
    assert_same(result, model, q, q.flip(2), q)


def test_slower_stays(monkeypatch):
    seen = []
    monkeypatch.setattr(attention_pass, "_time", lambda *sizes: bool(seen.append(sizes)))
    result = rewritten(encoder("bert"), text(3, 10))
    assert result.attentions == 0
    assert targets(result).count(torch.ops.aten.scaled_dot_product_attention.default) == 2
    assert len(seen) == 1  # nodes of one size are timed once
    assert seen[0][0] == (3, 3, 10, 16)


def test_the_choice_is_measured(monkeypatch):
    """The slower of the two operations loses, whichever it is."""
    sizes, slow = (2, 3, 200, 16), torch.randn(900, 900)
    for patched, wins in (("scaled_dot_product_attention", True), (None, False)):
        with monkeypatch.context() as patch:
            if patched:
                patch.setattr(attention_pass.F, patched, lambda *args, **kwargs: slow @ slow)
            else:
                patch.setattr(attention_pass.torch.ops.rarefy, "attention", lambda *args: slow @ slow)
            assert MEASURED(sizes, sizes, torch.ones(2, 1, 1, 200, dtype=torch.bool), 0.25) is wins


class Norms(nn.Module):
    """Additions and norms that look like the pattern and are not it."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.norm = (
            kind,
            nn.LayerNorm((4, 8) if kind == "two axes" else 8, elementwise_affine=kind != "plain"),
        )

    def forward(self, x, y):
        if self.kind == "alpha":
            return self.norm(torch.add(x, y, alpha=2))
        if self.kind == "read twice":
            total = x + y
            return self.norm(total) + total
        if self.kind == "number":
            return self.norm(x + 1.0)
        if self.kind == "wide":
            return self.norm(x[:, :1] + y)  # neither has the sum's shape and repeats along leading axes only
        return self.norm(x + y)


@pytest.mark.parametrize("kind", ["alpha", "read twice", "number", "two axes", "plain", "no norm weight"])
def test_norms_that_stay(kind):
    model = Norms("plain" if kind == "no norm weight" else kind).eval()
    x, y = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    result = rewritten(model, (x, y))
    assert result.norms == 0
    assert torch.ops.aten.layer_norm.default in targets(result)
    assert_same(result, model, x, y)


def test_an_inner_axis_that_broadcasts():
    x, y = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    result = rewritten(Norms("wide").eval(), (x, y))
    assert result.norms == 0
    assert_same(result, Norms("wide").eval(), x, y)


def test_a_residual_for_all_batches():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.table = nn.LayerNorm(8), nn.Parameter(torch.randn(1, 30, 8))

        def forward(self, x):
            return self.norm(self.table[:, : x.shape[1]] + x)

    model = Positions().eval()
    result = rewritten(model, (torch.randn(3, 5, 8),))
    assert result.norms == 1
    for shape in ((3, 5, 8), (2, 11, 8)):
        assert_same(result, model, torch.randn(shape))


def test_without_the_native_module_nothing_is_rewritten(monkeypatch):
    monkeypatch.setattr("rarefy.engine.fuse.available", lambda: False)
    result = rewritten(encoder("bert"), text(3, 10))
    assert (result.norms, result.attentions) == (0, 0)
    assert not any("rarefy" in str(target) for target in targets(result))
