"""A compiled decoder drafts with its selectors and checks without them, over one cache and on the same weights."""

import pytest
import torch
from language_models import POSITIONS, build, tokens
from test_selected import TEXT, compiled, foresee, select_all, thresholds, with_top_k

import rarefy
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.core.errors import EngineError, ModelError, ShapeError
from rarefy.ops import available
from rarefy.selectors import Threshold, TopK, detach, feed_forwards, select_hidden
from rarefy.selectors.attach import paused

native = pytest.mark.skipif(not available(), reason="the native module is not built")


def neurons(model):
    for layer in feed_forwards(model):
        select_hidden(layer.activation, Threshold(torch.tensor(0.25)))


def inputs_and_neurons(model):
    select_all(model, thresholds)
    neurons(model)


def by_a_method(name, **options):
    return lambda model: rarefy.sparsify_activations(model, name, sparsity=0.5, data=TEXT, **options)


def in_pieces(drafting, ids):
    """Logits of all tokens: a prompt, a single one, and many."""
    _, cache = drafting.begin(ids[:, :9], 1)
    cache.crop(0)
    return torch.cat(
        [drafting.check(ids[:, part], cache) for part in (slice(9), slice(9, 10), slice(10, 40))], 1
    ), cache


@native
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", inputs_and_neurons),
        ("llama", neurons),
        ("qwen3", lambda model: select_all(model, thresholds)),
        ("opt", inputs_and_neurons),
        ("gpt2", inputs_and_neurons),
        ("llama", lambda model: DReLU().apply(model)),
        ("llama", by_a_method("r-sparse", rho=0.6)),
        ("linear-rope", by_a_method("larosa")),
        ("llama", lambda model: foresee(model, heads=True)),
        ("llama", lambda model: [with_top_k(model), select_all(model, thresholds)]),
    ],
)
def test_a_check_is_what_the_model_says_with_its_selectors_paused(name, change):
    model, ids = build(name, sparsity=0.5 if name == "llama" else 0), tokens(1, 40)
    change(model)
    fast = compiled(model)
    with torch.no_grad(), paused(model):
        wanted = model(input_ids=ids, use_cache=True)
    detach(model)  # what was compiled stays as it was
    found, cache = in_pieces(fast.drafting, ids)
    torch.testing.assert_close(found, wanted.logits, rtol=1e-4, atol=5e-5)
    assert not torch.allclose(fast(input_ids=ids).logits, wanted.logits, rtol=1e-2, atol=1e-2)
    for layer, kept in enumerate(wanted.past_key_values.layers):
        for ours, theirs in zip(cache.read(layer, 40), (kept.keys, kept.values), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=5e-5)


@native
@pytest.mark.parametrize("types", [{"weights": "bf16"}, {"weights": "int8", "activations": "int8"}])
def test_checks_in_narrower_types(types):
    model, ids = build("llama"), tokens(1, 40)
    inputs_and_neurons(model)
    with torch.no_grad(), paused(model):
        wanted = model(input_ids=ids).logits
    found, _ = in_pieces(compiled(model, **types).drafting, ids)
    assert float((found - wanted).norm() / wanted.norm()) < 0.03


@native
def test_nothing_is_packed_twice():
    model = build("llama")
    inputs_and_neurons(model)
    fast = compiled(model)
    packs = {id(packed) for chosen in fast._runner.plan.all() for _, packed in chosen.steps}
    checked = {id(packed) for chosen in fast.drafting._dense.plan.all() for _, packed in chosen.steps}
    assert checked <= packs
    skipping = [chosen.at(1).kernel.split("-")[0] for chosen in fast._runner.plan.all()]
    assert "columns" in skipping
    assert fast.drafting is fast.drafting


@native
def test_drafts_are_the_greedy_tokens_of_the_sparse_model():
    model, ids = build("llama"), tokens(1, 7)
    select_all(model, lambda number, width: TopK(width // 3))
    fast = compiled(model)
    wanted = fast.generate(ids, max_new_tokens=20, do_sample=False)[:, 7:]
    cache = fast.cache(1, 7)
    fast(input_ids=ids[:, :6], past_key_values=cache)
    found = fast.drafting.draft(ids[:, 6:], cache, 20)
    assert torch.equal(found, wanted) and cache.length == 26
    cache.crop(6)
    end = int(wanted[0, 4])
    some = fast.drafting.draft(ids[:, 6:], cache, 20, end)
    until = wanted[0].tolist().index(end) + 1
    assert torch.equal(some, wanted[:, :until]) and cache.length == 6 + until


def test_a_cache_forgets_its_last_tokens():
    cache = compiled(build("llama")).cache(1, 12)
    cache.length = 12
    cache.crop(-5)
    assert cache.length == 7
    with pytest.raises(ShapeError, match="crop: length -8"):
        cache.crop(-8)


def test_what_cannot_be_drafted_is_said():
    model, one = build("llama"), tokens(1, 1)
    with pytest.raises(ModelError, match="no selectors"):
        _ = compiled(model).drafting
    neurons(model)
    drafting = compiled(model).drafting
    _, cache = drafting.begin(one, 4)
    with pytest.raises(ShapeError, match=r"draft: input_ids has shape \(2, 1\)"):
        drafting.draft(tokens(2, 1), cache, 4)
    with pytest.raises(EngineError, match="positions"):
        drafting.draft(one, cache, POSITIONS)
    with pytest.raises(EngineError, match="positions"):
        drafting.check(tokens(1, POSITIONS), cache)
