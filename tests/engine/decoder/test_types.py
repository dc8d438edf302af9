"""Weights and inputs in narrower types, and copies of compiled models."""

import copy
import pickle

import pytest
import torch
from language_models import VOCABULARY, build, compiled, tokens

import rarefy
from needs import needs_native
from rarefy.core.errors import EngineError
from rarefy.engine import CompiledDecoder
from rarefy.engine.precision import Precision
from rarefy.ops import available, candidates

TYPES = [("bf16", "fp32"), ("int8", "fp32"), ("int8", "int8"), ("int4", "fp32"), ("int4", "int8")]


def there(weights, activations):
    return available() and candidates(torch.eye(64), 1, weights, activations)


def rounded(model, precision):
    """A copy whose layers hold what is stored, so that only the inputs' rounding is left."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                stored = precision.stored(parameter.data)
                parameter.copy_(stored.dequantize() if precision.quantized else parameter.bfloat16().float())
    return twin


@pytest.mark.parametrize(("weights", "activations"), TYPES)
@pytest.mark.parametrize("name", ["llama", "qwen3", "opt"])
def test_narrow_types_compute_what_their_rounded_weights_give(name, weights, activations):
    if not there(weights, activations):
        pytest.skip(f"no kernel for {weights} weights and {activations} activations here")
    model = build(name).requires_grad_(False)
    if name == "opt":  # its head is the embedding: rounding a copy would round both
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    fast, precision = compiled(model, weights=weights, activations=activations), Precision(weights, activations)
    assert isinstance(fast, CompiledDecoder)
    assert "away from the source model's" in str(fast.explain())
    ids = tokens(3, 20)
    ours, theirs = fast(input_ids=ids).logits, rounded(model, precision)(input_ids=ids).logits
    # 4-bit layouts may store the scales themselves in fewer bits
    most = 0.05 if activations == "int8" else 1e-4 if weights == "int4" else 1e-5
    assert float((ours - theirs).norm() / theirs.norm()) < most
    steps = fast.cache(3, 20)
    pieces = [fast(input_ids=ids[:, i : i + 1], past_key_values=steps).logits for i in range(20)]
    assert float((torch.cat(pieces, 1) - theirs).norm() / theirs.norm()) < most
    assert fast.generate(ids, max_new_tokens=5, do_sample=False).shape == (3, 25)


@pytest.mark.skipif(not there("int8", "int8"), reason="no 8-bit kernel here")
def test_static_scales_from_data():
    model = build("llama")
    batches = [{"input_ids": tokens(4, 16, seed)} for seed in range(3)]
    example = {"input_ids": tokens(1, 9)}
    fast = rarefy.compile(model, example, weights="int8", activations="int8", data=batches, measure=False)
    assert all(packed.input_scale is not None for c in fast._runner.plan.all() for _, packed in c.steps if packed)
    ids = tokens(2, 20, seed=9)
    theirs = model(input_ids=ids).logits
    assert float((fast(input_ids=ids).logits - theirs).norm() / theirs.norm()) < 0.15


@needs_native
def test_types_without_a_kernel_are_refused():
    if there("fp32", "bf16"):
        pytest.skip("this machine has such a kernel")
    with pytest.raises(EngineError, match="no kernel has"):
        compiled(build("llama"), weights="fp32", activations="bf16")


def test_copies_and_pickles_generate_the_same():
    model = build("qwen2")
    fast, ids = compiled(model), tokens(2, 7)
    want = fast.generate(ids, max_new_tokens=10, do_sample=False)
    for twin in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(twin.generate(ids, max_new_tokens=10, do_sample=False), want)
    assert int(want.max()) < VOCABULARY


def test_at_most_two_layouts_a_layer():
    fast = rarefy.compile(build("llama"), [{"input_ids": tokens(1, 70)}, {"input_ids": tokens(4, 20)}])
    for chosen in fast._runner.plan.all():
        assert len({id(packed) for _, packed in chosen.steps if packed is not None}) <= 2
