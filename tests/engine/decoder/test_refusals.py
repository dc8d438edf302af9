"""Wrong inputs say what was wrong; models that the runtime does not know run in torch and say why."""

import pytest
import torch
import transformers
from language_models import POSITIONS, ROTARY, VOCABULARY, build, compiled, rope, tokens
from torch import nn

import rarefy
from needs import needs_native
from rarefy.core.errors import EngineError, RarefyError
from rarefy.engine import Compiled, CompiledDecoder
from rarefy.engine.decoder.parts import NotKnownError
from rarefy.engine.decoder.recognise import recognise
from rarefy.selectors import TopK, select_inputs


@pytest.fixture(scope="module")
def fast():
    return compiled(build("llama"))


@pytest.mark.parametrize("call", ["forward", "generate"])
@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.zeros(1, 4), "input_ids is torch.float32"),
        (torch.zeros(4, dtype=torch.int64), "batch, tokens"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), "batch, tokens"),
        (torch.tensor([[1, VOCABULARY]]), "vocabulary"),
        (torch.tensor([[1, -1]]), "vocabulary"),
        ([[1, 2]], "give a tensor"),
        (tokens(1, POSITIONS + 1), "positions"),
    ],
)
def test_input_ids(fast, call, ids, says):
    with pytest.raises(RarefyError, match=says):
        fast(input_ids=ids) if call == "forward" else fast.generate(ids, max_new_tokens=2)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"attention_mask": torch.ones(1, 5, dtype=torch.long)}, "attention_mask has shape"),
        ({"attention_mask": torch.ones(2, 4, dtype=torch.long)}, "attention_mask has shape"),
        ({"attention_mask": torch.ones(1, 4)}, "attention_mask is torch.float32"),
        ({"position_ids": torch.zeros(1, 3, dtype=torch.long)}, "position_ids has shape"),
        ({"position_ids": torch.zeros(1, 4)}, "position_ids is"),
        ({"position_ids": torch.full((1, 4), POSITIONS)}, "outside the model"),
    ],
)
def test_other_inputs_of_a_call(fast, more, says):
    with pytest.raises(RarefyError, match=says):
        fast(input_ids=tokens(1, 4), **more)


def test_a_cache_of_another_batch(fast):
    cache = fast(input_ids=tokens(2, 4)).past_key_values
    with pytest.raises(RarefyError, match="2"):
        fast(input_ids=tokens(1, 4), past_key_values=cache)
    with pytest.raises(RarefyError, match="crop"):
        cache.crop(9)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"max_new_tokens": POSITIONS}, "positions"),
        ({"max_new_tokens": -1}, "negative"),
        ({"max_new_tokens": 1.5}, "no whole number"),
        ({"max_length": 3}, "no room"),
        ({"max_new_tokens": 2, "do_sample": True, "temperature": 0.0}, "temperature"),
        ({"max_new_tokens": 2, "do_sample": True, "top_p": 0.0}, "top_p"),
        ({"max_new_tokens": 2, "do_sample": True, "top_k": -1}, "top_k"),
        ({"max_new_tokens": 2, "seed": 1, "generator": torch.Generator()}, "both"),
        ({"max_new_tokens": 2, "attention_mask": torch.ones(1, 9, dtype=torch.long)}, "attention_mask"),
    ],
)
def test_arguments_of_generate(fast, more, says):
    with pytest.raises(RarefyError, match=says):
        fast.generate(tokens(1, 4), **more)


def test_an_empty_prompt(fast):
    with pytest.raises(RarefyError, match="empty"):
        fast.generate(tokens(1, 0), max_new_tokens=2)


def test_a_failed_call_leaves_the_cache_usable(fast):
    ids = tokens(1, 12)
    cache = fast(input_ids=ids[:, :6]).past_key_values
    with pytest.raises(RarefyError):
        fast(input_ids=torch.tensor([[VOCABULARY]]), past_key_values=cache)
    again = fast(input_ids=ids[:, 6:], past_key_values=cache).logits
    torch.testing.assert_close(again, fast(input_ids=ids).logits[:, 6:], rtol=1e-4, atol=2e-5)


def _unknown():
    torch.manual_seed(0)
    config = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    yield "not one of", transformers.BloomForCausalLM(transformers.BloomConfig(**config))
    chunked = build("qwen2")
    chunked.config.layer_types = ["chunked_attention"] * 3
    yield "layers attend by 'chunked_attention'", chunked
    dynamic = transformers.LlamaConfig(**ROTARY, num_key_value_heads=2, **rope("dynamic", factor=2.0))
    yield "depend on the length", transformers.LlamaForCausalLM(dynamic)
    part = build("llama")
    part.model.rotary_emb.inv_freq = part.model.rotary_emb.inv_freq[:3]
    yield "only a part", part
    double = build("llama").double()
    yield "float64", double
    replaced = build("llama")
    replaced.model.layers[1].mlp.up_proj = nn.Sequential(replaced.model.layers[1].mlp.up_proj)
    yield "Sequential", replaced
    hooked = build("opt")
    hooked.model.decoder.layers[0].fc1.register_forward_hook(lambda *_: None)
    yield "hooks", hooked
    gated = build("llama")
    gated.model.layers[0].mlp.act_fn = nn.Tanh()
    yield "Tanh", gated
    projected = build("opt-projected")
    select_inputs(projected.model.decoder.project_in, TopK(4))
    yield "project_in has a selector", projected


@pytest.mark.parametrize(("says", "model"), [pytest.param(*case, id=case[0]) for case in _unknown()])
def test_models_that_the_runtime_does_not_know_are_not_recognised(says, model):
    with pytest.raises(NotKnownError, match=says):
        recognise(model)


def test_a_window_that_is_switched_off_is_what_the_model_makes_of_it():
    """Versions before `layer_types` (4.50) mask by it all the same; it begins behind what the example shows."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**ROTARY, num_key_value_heads=2, use_sliding_window=False, sliding_window=12)
    model = transformers.Qwen2ForCausalLM(config).eval()
    rarefy.prune(model, "magnitude", sparsity=0.5, measure=False)
    fast, ids = compiled(model), tokens(2, 30)
    with torch.no_grad():
        torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "switches", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"scale_attn_weights": False}], ids=str
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scores_of_gpt2_are_scaled_as_its_version_scales_them(switches, attention):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": POSITIONS}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **switches, attn_implementation=attention))
    for part in model.parameters():
        part.data.add_(0.2 * torch.randn_like(part))
    rarefy.prune(model.eval(), "magnitude", sparsity=0.5, measure=False)
    if switches and not hasattr(model.transformer.h[0].attn, "scaling"):  # 4.50: only some attentions heed them
        with pytest.raises(NotKnownError, match="scaled otherwise"):
            recognise(model)
    else:
        recognise(model)
    fast, ids = compiled(model), tokens(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(fast(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


def test_an_unknown_model_generates_in_torch_and_says_so():
    model = next(_unknown())[1].eval()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    fast, ids = compiled(model), tokens(2, 6)
    assert isinstance(fast, Compiled)
    assert "generate runs in torch" in str(fast.explain()) and "BloomForCausalLM" in str(fast.explain())
    kwargs = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(fast.generate(ids, **kwargs), model.generate(ids, **kwargs))


@pytest.mark.parametrize("name", ["opt-350m", "opt-projected"])
def test_what_the_native_step_has_not_runs_layer_by_layer_and_is_said(name):
    fast = compiled(build(name))
    assert isinstance(fast, CompiledDecoder) and not fast._runner.is_native
    assert "layer by layer in torch" in fast.explain().graph and "not in the native step" in str(fast.explain())


@needs_native
def test_a_runtime_that_is_wrong_is_not_used(monkeypatch):
    """The logits of the example are compared with the source's before anything else is."""
    from rarefy.engine.decoder import structure

    right = structure.Merged.weight
    monkeypatch.setattr(structure.Merged, "weight", lambda self: right(self) * 1.01)
    model = build("gpt2")
    fast = compiled(model)
    assert isinstance(fast, Compiled) and "what the runtime computes differs" in str(fast.explain())
    monkeypatch.undo()
    assert isinstance(compiled(model), CompiledDecoder)


def test_compiled_encoders_have_no_generate():
    fast = rarefy.compile(nn.Linear(4, 4), torch.randn(2, 4), measure=False)
    with pytest.raises(EngineError, match="generate"):
        fast.generate(torch.zeros(1, 1))


def test_training_is_refused(fast):
    with pytest.raises(RuntimeError, match="inference"):
        fast.train()
    assert fast.eval() is fast
