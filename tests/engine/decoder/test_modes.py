"""Results are ordinary tensors, and a cache goes on in whichever mode of torch it is called."""

import pytest
import torch
from language_models import build, compiled, tokens

from rarefy.engine.decoder import runner as runner_module

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(params=["native", "layer by layer"])
def fast(request, monkeypatch):
    if request.param == "layer by layer":
        monkeypatch.setattr(runner_module, "available", lambda: False)
    return compiled(build("llama"))


def test_results_take_part_in_a_gradient(fast):
    ids = tokens(2, 6)
    reader = torch.nn.Linear(fast.config.vocab_size, 3)
    logits = fast(input_ids=ids).logits
    reader(logits).sum().backward()
    assert reader.weight.grad.abs().sum() > 0 and not logits.requires_grad
    rows = torch.nn.Embedding(fast.config.vocab_size, 4)
    rows(fast.generate(ids, max_new_tokens=3, do_sample=False)).sum().backward()
    assert rows.weight.grad.sum() == 4 * ids.shape[0] * 9
    in_source = fast(input_ids=ids, output_hidden_states=True).hidden_states[-1]
    assert not in_source.is_inference() and not in_source.requires_grad


@pytest.mark.parametrize("inside_first", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_cache_goes_on_in_another_mode(fast, inside_first, padded):
    ids, mask = tokens(2, 40), torch.ones(2, 40, dtype=torch.long)
    if padded:
        mask[1, :3] = 0
    whole, cache, got = fast(input_ids=ids, attention_mask=mask).logits, fast.cache(2, 4), []
    for at, inside in zip((0, 6, 30), (inside_first, not inside_first, inside_first), strict=True):
        end = {0: 6, 6: 30, 30: 40}[at]
        with torch.inference_mode(inside):
            out = fast(input_ids=ids[:, at:end], attention_mask=mask[:, :end], past_key_values=cache)
        got.append(out.logits.clone())
    torch.testing.assert_close(torch.cat(got, 1)[mask.bool()], whole[mask.bool()], **CLOSE)


@pytest.mark.parametrize("inside_first", [True, False])
def test_texts_side_by_side_go_on_in_another_mode(fast, inside_first):
    texts, ids = fast.together(), [tokens(1, 9), tokens(1, 5, seed=4)]
    with torch.inference_mode(inside_first):
        for one in ids:
            texts.add(one)
    with torch.inference_mode(not inside_first):
        logits = texts.step(torch.tensor([[3], [4]]))
    for row, (one, token) in enumerate(zip(ids, (3, 4), strict=True)):
        alone = fast(input_ids=torch.cat([one, torch.tensor([[token]])], 1)).logits[0, -1]
        torch.testing.assert_close(logits[row], alone, **CLOSE)
