"""Models whose parameters are bfloat16: the same weights, computed in float32."""

import copy

import pytest
import torch
from language_models import CLASSES, build, compiled, tokens

import rarefy
from needs import needs_native
from rarefy.engine import CompiledDecoder
from rarefy.engine.decoder.parts import NotKnownError
from rarefy.engine.decoder.recognise import recognise
from rarefy.selectors import TopK, projections, select_inputs

CLOSE = {"rtol": 1e-4, "atol": 5e-5}


@needs_native
@pytest.mark.parametrize("name", [name for name in CLASSES if "rope" not in name])
def test_every_class_computes_what_it_computes_in_float32(name):
    model = build(name).bfloat16()
    wide = copy.deepcopy(model).float()
    fast = compiled(model)
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    assert fast.choices.precision.weights == "bf16"
    ids = tokens(2, 20)
    ours = fast(input_ids=ids).logits
    torch.testing.assert_close(ours, wide(input_ids=ids).logits, **CLOSE)
    assert ours.dtype == torch.float32
    settings = {"max_new_tokens": 20, "do_sample": False}
    assert torch.equal(fast.generate(ids, **settings), wide.generate(ids, **settings))


@needs_native
def test_selected_inputs_and_a_folder(tmp_path):
    model = build("opt").bfloat16()
    for place in projections(model):
        select_inputs(place.module, TopK(place.module.in_features // 2))
    fast = compiled(model)
    assert isinstance(fast, CompiledDecoder), fast.explain().notes
    rarefy.save(fast, tmp_path)
    again = rarefy.load(tmp_path)
    assert isinstance(again, CompiledDecoder)
    assert torch.equal(again(input_ids=tokens(1, 12)).logits, fast(input_ids=tokens(1, 12)).logits)
    assert {p.dtype for p in again.to_dense().parameters()} == {torch.bfloat16}


@needs_native
def test_other_stored_types_are_taken_as_asked():
    fast = compiled(build("llama").bfloat16(), weights="int8")
    assert isinstance(fast, CompiledDecoder) and fast.choices.precision.weights == "int8"


def test_mixed_types_and_torch_alone_are_not_taken(monkeypatch):
    mixed = build("llama").bfloat16()
    mixed.lm_head.float()
    with pytest.raises(NotKnownError, match=r"embed_tokens.weight is torch.bfloat16.*model.float"):
        recognise(mixed)
    from rarefy.ops import native

    monkeypatch.setattr(native, "module", lambda: None)
    with pytest.raises(NotKnownError, match="bfloat16"):
        recognise(build("opt").bfloat16())
