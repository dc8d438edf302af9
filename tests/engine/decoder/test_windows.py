"""Texts longer than the window of a model: exact beyond it, natively where a step can say so."""

import copy

import pytest
import torch
from language_models import build, compiled, tokens

from needs import needs_native
from rarefy.activations.sirius import Sirius
from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.walk import seen_of
from rarefy.ops.decoder import Sizes
from rarefy.selectors import TopK, projections, select_inputs


@needs_native
def test_single_tokens_beyond_one_window_run_natively_and_prompts_and_several_windows_do_not():
    one, two = compiled(build("mistral-window")), compiled(build("qwen2-windows"))
    assert one._runner.plan.is_native(2) and two._runner.plan.is_native(2)  # as far as the layers go
    assert one._runner._takes(1, 1, 90) and one._runner._takes(1, 2, 7) and not one._runner._takes(1, 2, 8)
    assert two._runner._takes(1, 2, 6) and not two._runner._takes(1, 1, 7)
    assert "a token sees 7 tokens, itself the last" in str(one.explain())
    assert "some layers see 6, of others more" in str(two.explain())


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-windows"])
def test_token_by_token_far_beyond_the_window(name):
    model = build(name)
    fast, ids = compiled(model), tokens(2, 60, seed=4)
    cache, pieces = fast.cache(2, 60), []
    for at in range(60):
        pieces.append(fast(input_ids=ids[:, at : at + 1], past_key_values=cache).logits)
    wanted = model(input_ids=ids).logits
    torch.testing.assert_close(torch.cat(pieces, 1), wanted, rtol=1e-4, atol=2e-5)
    whole = build("mistral") if name == "mistral-window" else None
    if whole is not None:  # the same weights without a window: it matters here
        assert not torch.allclose(whole(input_ids=ids).logits[:, -1], wanted[:, -1], atol=1e-2)


def test_what_a_token_sees():
    cache = DecoderCache(1, 2, Sizes(8, 1, 1, 8), 32)
    assert seen_of(cache, 4, None) is None and seen_of(cache, 4, 4) is None
    seen = seen_of(cache, 4, 2)
    assert seen is not None and seen[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    cache.length = 10
    assert cache.first_in(4).tolist() == [7, 7] and cache.first_in(40).tolist() == [0, 0]
    cache.pad([0, 9])
    assert cache.first_in(4).tolist() == [7, 9]
    seen = seen_of(cache, 1, 4)
    assert seen is not None and seen[:, 0, 0].int().argmax(1).tolist() == [7, 9]


def test_texts_that_come_and_go_keep_their_windows():
    model = build("mistral-window")
    fast = compiled(model)
    texts = [tokens(1, 20, seed=1), tokens(1, 11, seed=2)]
    together = fast.together()
    for text in texts:
        together.add(text[:, :-4])
    for back in range(4, 0, -1):
        last = torch.cat([text[:, -back, None] for text in texts])
        logits = together.step(last)
        for row, text in enumerate(texts):
            wanted = model(input_ids=text[:, : text.shape[1] - back + 1]).logits[0, -1]
            torch.testing.assert_close(logits[row], wanted, rtol=1e-4, atol=2e-5)


@needs_native
def test_drafts_and_checks_see_the_same_window():
    model = build("mistral-window")
    dense = copy.deepcopy(model)
    for place in projections(model):
        select_inputs(place.module, TopK(place.module.in_features // 2))
    fast, prompt = compiled(model), tokens(1, 9)
    made = Sirius(period=4, exact=True).generate(fast, prompt, 24)
    assert torch.equal(made.tokens, dense.generate(prompt, max_new_tokens=24, do_sample=False))
