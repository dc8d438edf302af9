"""Compiled decoders of models with selectors: the same logits and tokens as the source with its hooks."""

from dataclasses import replace

import pytest
import torch
from language_models import build, tokens

import rarefy
from rarefy.activations.lazy_neuron import TopKReLU
from rarefy.activations.q_sparse import QSparse, settle
from rarefy.activations.rank_aware import RankAware
from rarefy.activations.relufication import Relufication
from rarefy.activations.swap import swap_activations
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.engine import CompiledDecoder
from rarefy.engine.decoder.choose_selecting import Selecting
from rarefy.ops import available
from rarefy.selectors import Threshold, TopK, detach, feed_forwards, projections, select_hidden, select_inputs
from rarefy.selectors.block_top_k import BlockTopK
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.positive import Positive
from rarefy.selectors.predictor import Predictor
from rarefy.selectors.threshold import NONZERO
from rarefy.selectors.turned import Turn

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
native = pytest.mark.skipif(not available(), reason="the native module is not built")


def compiled(model, rows=1, **types):
    fast = rarefy.compile(model, {"input_ids": tokens(rows, 16)}, measure=False, **types)
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    return fast


def kernels(fast):
    return {row.kernel.split("-")[0] for row in fast.explain().rows}


def select_all(model, make):
    """Selectors that differ from projection to projection, on all of them."""
    for number, place in enumerate(projections(model)):
        width = place.module.weight.shape[1 if isinstance(place.module, torch.nn.Linear) else 0]
        select_inputs(place.module, make(number, width))


def thresholds(number, width):
    return Threshold(torch.full((width,), 0.3 + 0.15 * (number % 3)), torch.linspace(0.5, 1.5, width))


def assert_same(fast, model):
    for shape in ((1, 9), (3, 17)):
        ids = tokens(*shape)
        torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)
    for batch in (1, 5):
        ids = tokens(batch, 7, seed=batch)
        ours, theirs = (m.generate(ids, max_new_tokens=12, do_sample=False) for m in (fast, model))
        assert torch.equal(ours, theirs)


@native
@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "make",
    [
        thresholds,
        lambda number, width: TopK(width // (2 + number % 2)),
        lambda number, width: BlockTopK(1 + number % 2, 4),
        lambda number, width: Positive(),
    ],
)
def test_selected_inputs_of_every_projection(name, make):
    model = build(name)
    select_all(model, make)
    fast = compiled(model)
    assert "columns" in kernels(fast)
    assert_same(fast, model)
    detach(model)
    ids = tokens(1, 9)
    assert not torch.allclose(fast(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


@native
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize("with_inputs", [False, True])
def test_selected_neurons(name, with_inputs):
    model = build(name)
    if with_inputs:
        select_all(model, thresholds)
    for layer in feed_forwards(model):
        select_hidden(layer.activation, Threshold(torch.tensor(0.25)))
    fast = compiled(model)
    assert ("neurons" in kernels(fast)) == (name == "llama")  # only a gated layer has rows to choose
    assert_same(fast, model)


@native
def test_a_model_with_two_rectified_halves():
    model = build("llama")
    DReLU().apply(model)  # the zeros of the gate are known before up is computed
    fast = compiled(model)
    assert kernels(fast) >= {"columns", "neurons"}
    assert_same(fast, model)


def with_top_k(model):
    assert swap_activations(model, lambda layer: TopKReLU(9), "relu")


@native
@pytest.mark.parametrize("name", ["llama", "opt", "gpt2"])
@pytest.mark.parametrize(
    "change",
    [
        lambda model: [QSparse(0.4).apply(model), settle(model)],
        lambda model: [QSparse(0.5, block=8).apply(model), settle(model)],
        lambda model: Relufication("squared", inputs=True).apply(model),
        lambda model: Relufication(inputs=True).apply(model),
        lambda model: Relufication("shifted", shift=0.3, inputs=True).apply(model),
        with_top_k,
    ],
)
def test_models_made_sparse_by_training_run_in_the_decoder(name, change):
    model = build(name)
    change(model)
    fast = compiled(model)
    assert kernels(fast) & {"columns", "neurons"}
    assert_same(fast, model)


@native
def test_a_selector_behind_one_that_selects_by_itself_is_never_ignored():
    model = build("llama")
    with_top_k(model)
    for layer in feed_forwards(model):
        select_hidden(layer.activation, NONZERO)
    fast = rarefy.compile(model, {"input_ids": tokens(1, 9)})
    assert not isinstance(fast, CompiledDecoder)
    ids = tokens(2, 9)
    torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


TEXT = [{"input_ids": tokens(6, 48, seed=5)}]


@native
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_dropped_goes_through_a_low_rank(name):
    model = build(name)
    rarefy.sparsify_activations(model, "r-sparse", sparsity=0.5, data=TEXT, rho=0.6)
    ranks = [m.right.shape[0] for m in model.modules() if isinstance(m, RankAware)]
    assert min(ranks) > 0
    fast = compiled(model)
    assert "columns" in kernels(fast) and any(row.name.endswith(".left") for row in fast.explain().rows)
    assert_same(fast, model)


@native
def test_a_gate_with_a_low_rank_whose_neurons_are_selected_too():
    model = build("llama")
    rarefy.sparsify_activations(model, "r-sparse", sparsity=0.5, data=TEXT, rho=0.6)
    for layer in feed_forwards(model):
        select_hidden(layer.activation, Threshold(torch.tensor(0.25)))
    assert_same(compiled(model), model)


@native
@pytest.mark.parametrize(
    ("name", "method", "options"), [("linear-rope", "larosa", {}), ("qwen3", "wina", {"rotate": True})]
)
def test_blocks_in_bases_of_their_own(name, method, options):
    model = build(name, sparsity=0)
    rarefy.sparsify_activations(model, method, sparsity=0.4, data=TEXT, **options)
    fast = compiled(model)
    assert sum(row.name.endswith("residual_adapter") for row in fast.explain().rows) >= 3
    assert_same(fast, model)


@native
@pytest.mark.parametrize("method", ["r-sparse", "larosa"])
def test_low_ranks_and_bases_in_narrower_types(method):
    model = build("llama", sparsity=0)
    rarefy.sparsify_activations(
        model, method, sparsity=0.3, data=TEXT, **({"rho": 0.6} if method == "r-sparse" else {})
    )
    fast = compiled(model, weights="int8", activations="int8")
    ids = tokens(1, 1)
    want = model(input_ids=ids).logits.detach()
    assert float((fast(input_ids=ids).logits - want).norm() / want.norm()) < 0.1
    stored = {row.kernel.split("-")[-1] for row in fast.explain().rows if row.name.endswith("residual_adapter")}
    assert stored == ({"bf16"} if method == "larosa" else set())  # the stream is not rounded to bytes at every block


@native
def test_a_head_with_zeros_keeps_them_beside_a_turned_block():
    model = build("llama", sparsity=0)
    rarefy.sparsify_activations(model, "larosa", sparsity=0.4, data=TEXT)
    rarefy.prune(model.lm_head, "magnitude", sparsity=0.5, measure=False)
    assert_same(compiled(model), model)


@native
def test_a_basis_that_changes_elsewhere_is_never_ignored():
    model, ids = build("llama"), {"input_ids": tokens(1, 8)}
    norm = model.model.layers[1].input_layernorm
    norm.register_buffer("rotation", torch.linalg.qr(torch.randn(48, 48)).Q)
    norm.register_forward_hook(Turn())
    fast = rarefy.compile(model, ids, measure=False)
    assert not isinstance(fast, CompiledDecoder)
    torch.testing.assert_close(fast(**ids).logits, model(**ids).logits, **CLOSE)


def foresee(model, heads, ahead=0, full=None, spoil=False, change=lambda likeliest: likeliest):
    """Hangs predictors of random weights on a model: of neurons, and of heads."""
    layers, places = feed_forwards(model), {(p.block, p.part): p.module for p in projections(model)}
    torch.manual_seed(3)
    for number, layer in enumerate(layers):
        before = max(0, number - ahead)
        source = layers[before].gate or layers[before].up
        width, neurons = (
            places[before, "o"].weight.shape[0],
            layer.down.weight.numel() // places[before, "o"].weight.shape[0],
        )
        chosen = Foreseen(change(Likeliest(predictor(width, neurons, 8), neurons // 3, full=full)), neurons)
        chosen.watch(places[number, "o"] if spoil else source)
        select_hidden(layer.activation, chosen)
        if heads:
            asked = places.get((number, "q"), places.get((number, "qkv")))
            chosen = Foreseen(change(Likeliest(predictor(width, 6, 0), 4, spread=width // 6)), width)
            chosen.watch(asked)
            select_inputs(places[number, "o"], chosen)


def predictor(width, targets, rank):
    net = Predictor(width, targets, rank).requires_grad_(False)
    net.mean.normal_()
    net.scale.uniform_(0.5, 2.0)
    return net


@native
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"heads": True}),
        ("opt", {"heads": False, "ahead": 1}),
        ("gpt2", {"heads": True, "full": 0.6}),
        ("qwen2", {"heads": False, "full": 1.0}),
    ],
)
def test_what_predictors_foresee(name, options):
    model = build(name)
    foresee(model, **options)
    fast = compiled(model)
    assert "neurons" in kernels(fast)
    assert_same(fast, model)


@native
@pytest.mark.parametrize("equal", ["all", "halves", "some"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.4, 0.99, 1.0])
def test_of_equally_likely_targets_the_first_are_taken(equal, share):
    def tied(likeliest):
        second = likeliest.predictor.second
        targets = second.out_features
        if equal == "some":
            second.weight[::3], second.bias[::3] = second.weight[0].clone(), second.bias[0].clone()
        else:
            second.weight.zero_()
            second.bias.copy_(torch.arange(targets) < (targets // 2 if equal == "halves" else 0))
        return replace(likeliest, kept=int(share * targets))

    model = build("llama")
    foresee(model, heads=True, change=tied)
    assert_same(compiled(model), model)


def test_the_walk_in_torch_foresees_too(monkeypatch):
    from rarefy.engine.decoder import choose, runner

    monkeypatch.setattr(choose, "available", lambda: False)
    monkeypatch.setattr(runner, "available", lambda: False)
    model, ids = build("llama"), tokens(3, 17)
    foresee(model, heads=True, ahead=1, full=0.7)
    torch.testing.assert_close(compiled(model)(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


@native
def test_what_is_foreseen_elsewhere_is_never_ignored():
    ids = {"input_ids": tokens(1, 8)}
    for attach in (
        lambda m: foresee(m, heads=False, spoil=True),
        lambda m: foresee(m, heads=False, ahead=2),
        lambda m: [h.watch(m.model.layers[0].mlp.gate_proj) for h in (Foreseen(lambda x: x[..., :1] > 0, 1),)],
    ):
        model = build("llama")
        attach(model)
        fast = rarefy.compile(model, ids, measure=False)
        assert not isinstance(fast, CompiledDecoder) and any("fores" in note for note in fast.explain().notes)
        torch.testing.assert_close(fast(**ids).logits, model(**ids).logits, **CLOSE)


@native
@pytest.mark.parametrize("selector", [Threshold(torch.tensor(0.0)), Threshold(torch.tensor(-1.0)), TopK(48)])
def test_with_sparsity_0_tokens_are_those_of_the_dense_model(selector):
    model = build("llama")
    ids = tokens(2, 7)
    dense = model.generate(ids, max_new_tokens=20, do_sample=False)
    for place in projections(model):
        if place.module.in_features == 48:
            select_inputs(place.module, selector)
    assert torch.equal(compiled(model).generate(ids, max_new_tokens=20, do_sample=False), dense)


@native
def test_a_threshold_that_nothing_passes():
    model = build("llama")
    select_all(model, lambda number, width: Threshold(torch.tensor(1e9)))
    assert_same(compiled(model), model)


@native
@pytest.mark.parametrize(
    "types", [{"weights": "bf16"}, {"weights": "int8"}, {"weights": "int8", "activations": "int8"}]
)
def test_narrower_types_compute_the_same_by_columns_as_by_rows(monkeypatch, types):
    """The edge of a selection falls differently with every rounding: what is compared has the same stored weights."""
    found = {}
    for winner in ("columns", "dense"):
        model = build("llama")
        select_all(model, lambda number, width: Threshold(torch.tensor(0.05)))
        monkeypatch.setattr(Selecting, "_times", _times_of(winner))
        fast = compiled(model, **types)
        assert ("columns" in kernels(fast)) == (winner == "columns")
        found[winner] = fast(input_ids=tokens(1, 1)).logits
    far = (found["columns"] - found["dense"]).norm() / found["dense"].norm()
    assert float(far) < (0.04 if "activations" in types else 1e-3)


@native
def test_what_is_measured_is_explained_and_times_only_decide_the_kernel(monkeypatch):
    model = build("llama")
    select_all(model, lambda number, width: TopK(width // 4))
    chosen = {}
    for winner in ("columns", "dense"):
        monkeypatch.setattr(Selecting, "_times", _times_of(winner))
        fast = compiled(model)
        row = next(r for r in fast.explain().rows if "25% of the inputs are used" in r.reason and r.tokens == 1)
        assert row.kernel.startswith("columns") == (winner == "columns")
        chosen[winner] = fast(input_ids=tokens(1, 9)).logits
    torch.testing.assert_close(chosen["columns"], chosen["dense"], **CLOSE)


def first(share):
    """Selectors with which every token uses the same inputs."""

    def make(_, width):
        keep = round(share * width)
        return TopK(keep, torch.where(torch.arange(width) < keep, 1.0, 1e-20))

    return make


@native
def test_where_nothing_is_timed_many_tokens_have_to_skip_more():
    for share, counts in ((0.55, {1, 2}), (0.3, {1, 2, 4, 8})):  # 16 tokens of this model run in torch
        model = build("llama")
        select_all(model, first(share))
        rows = compiled(model).explain().rows
        assert {row.tokens for row in rows if row.kernel.startswith("columns")} == counts


@native
def test_where_nothing_is_timed_the_bytes_of_both_ways_decide():
    skips = {}
    for share in (0.55, 0.3):
        for full in (False, True):  # half of the weights: a bit mask takes 5 bits a weight, columns of 8 bits all 8
            model = build("llama")
            if full:
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.copy_(torch.where(parameter == 0, 0.01, parameter))
            select_all(model, first(share))
            rows = compiled(model, weights="int8", activations="int8").explain().rows
            row = next(r for r in rows if "down_proj" in r.name and r.tokens == 1 and "are used" in r.reason)
            skips[share, full] = row.kernel.startswith("columns")
    assert skips == {(0.55, False): False, (0.55, True): True, (0.3, False): True, (0.3, True): True}


def _times_of(winner):
    def times(self, merged, source, names, packs, x, used, rows):
        wins = [name for name in names if name.startswith(("columns", "neurons")) == (winner == "columns")]
        return {name: 1.0 if name in wins else 2.0 for name in names}

    return times


def test_the_walk_in_torch_selects_too(monkeypatch):
    from rarefy.engine.decoder import choose, runner

    monkeypatch.setattr(choose, "available", lambda: False)
    monkeypatch.setattr(runner, "available", lambda: False)
    model = build("llama")
    select_all(model, thresholds)
    for layer in feed_forwards(model):
        select_hidden(layer.activation, Threshold(torch.tensor(0.05)))
    assert_same(compiled(model), model)
    model, ids = build("llama", sparsity=0), tokens(3, 17)
    rarefy.sparsify_activations(model, "larosa", sparsity=0.4, data=TEXT)
    torch.testing.assert_close(compiled(model)(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)
    model = build("llama")
    rarefy.sparsify_activations(model, "r-sparse", sparsity=0.4, data=TEXT, rho=0.6)
    torch.testing.assert_close(compiled(model)(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


@native
def test_selectors_that_the_runtime_does_not_know_are_never_ignored():
    class Half(Threshold):
        pass

    ids = {"input_ids": tokens(1, 8)}
    for attach in (
        lambda m: select_inputs(projections(m)[0].module, Half(torch.tensor(0.3))),
        lambda m: select_inputs(m.lm_head, Threshold(torch.tensor(0.3))),
        lambda m: projections(m)[0].module.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,)),
    ):
        model = build("llama")
        plain = model(**ids).logits
        attach(model)
        fast = rarefy.compile(model, ids, measure=False)
        torch.testing.assert_close(fast(**ids).logits, model(**ids).logits, **CLOSE)
        assert not torch.allclose(fast(**ids).logits, plain, **CLOSE)
