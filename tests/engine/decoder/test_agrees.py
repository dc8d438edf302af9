"""A compiled decoder gives the source model's logits and, greedily, its tokens."""

import pytest
import torch
from language_models import VOCABULARY, build, compiled, tokens

import rarefy
from needs import needs_native
from rarefy.engine import CompiledDecoder
from rarefy.engine.decoder import runner as runner_module

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def greedy(model, ids, new=24, **more):
    return model.generate(ids, max_new_tokens=new, do_sample=False, **more)


def left_padded(lengths, seed=3):
    """(ids, mask) of texts of these lengths, padded with 0 on the left."""
    longest = max(lengths)
    ids, mask = tokens(len(lengths), longest, seed), torch.zeros(len(lengths), longest, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, longest - length :] = 1
    return ids * mask, mask


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 16), (3, 17), (1, 64), (5, 33)])
def test_logits(pair, shape):
    model, fast = pair
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    ids = tokens(*shape)
    ours, theirs = fast(input_ids=ids), model(input_ids=ids)
    assert type(ours) is type(theirs)
    torch.testing.assert_close(ours.logits, theirs.logits, **CLOSE)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_greedy_tokens(pair, batch):
    model, fast = pair
    ids = tokens(batch, 7, seed=batch)
    assert torch.equal(greedy(fast, ids, 40), greedy(model, ids, 40))


def test_greedy_tokens_of_texts_padded_on_the_left(pair):
    model, fast = pair
    ids, mask = left_padded([12, 3, 20, 1])
    ours = greedy(fast, ids, attention_mask=mask)
    assert torch.equal(ours, greedy(model, ids, attention_mask=mask))
    alone = greedy(fast, ids[1:2, -3:])
    assert torch.equal(ours[1, -24:], alone[0, -24:])


def test_logits_with_a_padding_mask(pair):
    model, fast = pair
    ids, mask = left_padded([11, 4, 18])
    for keep in (mask, mask.flip(1)):  # padded on the left, and on the right
        ours, theirs = fast(input_ids=ids, attention_mask=keep), model(input_ids=ids, attention_mask=keep)
        torch.testing.assert_close(ours.logits[keep.bool()], theirs.logits[keep.bool()], **CLOSE)


def test_a_prompt_in_pieces_and_token_by_token_agrees_with_the_whole(pair):
    _, fast = pair
    ids = tokens(2, 40)
    whole = fast(input_ids=ids).logits
    for pieces in ([40], [1] * 40, [17, 1, 1, 5, 16], [3, 37]):
        cache, logits = fast.cache(2, 4), []  # too small on purpose: it grows
        for piece in ids.split(pieces, dim=1):
            out = fast(input_ids=piece, past_key_values=cache)
            assert out.past_key_values is cache
            logits.append(out.logits)
        assert cache.get_seq_length() == 40
        torch.testing.assert_close(torch.cat(logits, 1), whole, **CLOSE)


def test_a_mask_goes_on_behind_a_cache(pair):
    model, fast = pair
    ids, mask = left_padded([9, 5])
    cache = fast(input_ids=ids, attention_mask=mask).past_key_values
    more = tokens(2, 3, seed=9)
    longer = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    positions = (longer.cumsum(1) - 1).clamp_min(0)
    first = model(input_ids=ids, attention_mask=mask, position_ids=positions[:, :9])
    cache = fast(input_ids=ids, attention_mask=mask, position_ids=positions[:, :9]).past_key_values
    theirs = model(
        input_ids=more, attention_mask=longer, position_ids=positions[:, 9:], past_key_values=first.past_key_values
    )
    ours = fast(input_ids=more, attention_mask=longer, position_ids=positions[:, 9:], past_key_values=cache)
    torch.testing.assert_close(ours.logits, theirs.logits, **CLOSE)


def test_only_the_last_logits(pair):
    _, fast = pair
    ids = tokens(3, 12)
    whole = fast(input_ids=ids).logits
    for keep in (1, 4):
        torch.testing.assert_close(fast(input_ids=ids, logits_to_keep=keep).logits, whole[:, -keep:], **CLOSE)


def test_a_cropped_cache_forgets(pair):
    _, fast = pair
    ids = tokens(1, 20)
    cache = fast(input_ids=ids).past_key_values
    cache.crop(11)
    again = fast(input_ids=ids[:, 11:], past_key_values=cache).logits
    torch.testing.assert_close(again, fast(input_ids=ids).logits[:, 11:], **CLOSE)


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_long_prompts_run_in_chunks(pair, chunk, monkeypatch):
    model, fast = pair
    ids, mask = left_padded([30, 21])
    monkeypatch.setattr(runner_module, "_CHUNK", 2 * chunk)
    assert torch.equal(greedy(fast, ids, attention_mask=mask), greedy(model, ids, attention_mask=mask))
    torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


@needs_native
@pytest.mark.parametrize("name", ["llama", "opt"])
def test_dense_layers_in_torch_share_the_cache_with_the_native_step(name, monkeypatch):
    """Prompts whose layers are faster dense run through torch; the tokens behind them natively."""
    import importlib

    choose = importlib.import_module("rarefy.engine.decoder.choose")
    options = choose.Chooser._options

    def torch_first(*args):
        at = options(*args)
        return {"dense": 0.0} if "dense" in at else at

    monkeypatch.setattr(choose.Chooser, "_options", torch_first)
    model = build(name)
    fast = compiled(model)
    assert fast._runner.plan.is_native(1) and not fast._runner.plan.is_native(9)
    ids, mask = left_padded([12, 30])
    assert torch.equal(greedy(fast, ids, attention_mask=mask), greedy(model, ids, attention_mask=mask))
    torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, **CLOSE)


def test_without_the_native_module(monkeypatch):
    from rarefy.ops import native

    monkeypatch.setattr(native, "module", lambda: None)
    model = build("qwen3")
    fast = compiled(model)
    assert "in torch" in fast.explain().graph
    ids, mask = left_padded([12, 5])
    assert torch.equal(greedy(fast, ids, attention_mask=mask), greedy(model, ids, attention_mask=mask))


def test_a_dense_model_is_compiled_too():
    model = build("llama", sparsity=0.0)
    ids = tokens(2, 6)
    assert torch.equal(greedy(compiled(model), ids), greedy(model, ids))


@needs_native
def test_timed_compilation_explains_itself():
    model = build("llama")
    fast = rarefy.compile(model, {"input_ids": tokens(2, 9)})
    text = str(fast.explain())
    assert "one native call a step" in text and "one token behind" in text and "attention" in text
    assert fast.explain().whole[0]["compiled_ms"] > 0
    names = {row.name for row in fast.explain().rows}
    assert "lm_head" in names and any("2 more" in name for name in names)
    parts = fast.profile(past=20, steps=3)
    assert set(parts) >= {"qkv", "attention", "down", "head", "whole"}
    assert sum(ms for name, ms in parts.items() if name != "whole") <= parts["whole"] * 1.5
    assert fast.nbytes > 0
    rows = {row.name: row for row in parts.rows}
    layers = fast.explain().rows
    assert rows["head"].kernel == next(row.kernel for row in layers if row.name == "lm_head" and row.tokens == 1)
    sparse = 2 * sum(int(layer.mlp.down_proj.weight.count_nonzero()) for layer in model.model.layers)
    assert rows["down"].gflops == pytest.approx(sparse / rows["down"].ms / 1e6)
    assert 0 < sum(row.nbytes for row in parts.rows if row.kernel) < 1.5 * fast.nbytes


def test_results_do_not_depend_on_the_number_of_threads():
    model = build("llama")
    fast, ids = compiled(model), tokens(3, 30)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(fast(input_ids=ids).logits)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert int(ids.max()) < VOCABULARY
