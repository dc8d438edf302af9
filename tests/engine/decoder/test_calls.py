"""Arguments of a call of the compiled decoder: which it knows, and which the source model is called with."""

import pytest
import torch
from language_models import build, compiled, tokens

from rarefy.core.errors import EngineError

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def models():
    model = build("llama")
    return model, compiled(model)


def test_flags_that_are_off_run_natively(models, monkeypatch):
    model, fast = models
    ids = tokens(1, 8)
    wanted = model(input_ids=ids).logits
    monkeypatch.setattr(model, "forward", None)  # the source cannot be called
    off = {"output_attentions": False, "output_hidden_states": False}
    cache = fast(input_ids=ids[:, :5], **off).past_key_values
    torch.testing.assert_close(fast(input_ids=ids[:, 5:], past_key_values=cache, **off).logits, wanted[:, 5:], **CLOSE)
    assert fast.generate(ids, max_new_tokens=3, do_sample=False, past_key_values=None, **off).shape == (1, 11)


def test_a_cache_of_the_runtime_is_not_handed_to_the_source(models):
    _, fast = models
    ids = tokens(1, 8)
    cache = fast(input_ids=ids).past_key_values
    with pytest.raises(EngineError, match="forward with output_hidden_states: past_key_values is a DecoderCache"):
        fast(input_ids=ids, past_key_values=cache, output_hidden_states=True)
    with pytest.raises(EngineError, match="generate with past_key_values: past_key_values is a DecoderCache"):
        fast.generate(ids, past_key_values=cache, max_new_tokens=5)
    assert cache.get_seq_length() == 8


@pytest.mark.parametrize("keep", [0, 1, 3, 12, 20, -3, -12])
def test_logits_to_keep(models, keep):
    model, fast = models
    ids = tokens(2, 12)
    ours, theirs = (which(input_ids=ids, logits_to_keep=keep).logits for which in (fast, model))
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_call_without_a_mask_attends_to_all_that_a_padded_one_held(name):
    model = build(name)
    fast, ids, more = compiled(model), tokens(2, 8), tokens(2, 4, seed=4)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    logits = []
    for which in (fast, model):
        cache = which(input_ids=ids, attention_mask=mask).past_key_values
        logits.append(which(input_ids=more, past_key_values=cache).logits)
    torch.testing.assert_close(*logits, **CLOSE)
