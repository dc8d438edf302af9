"""Models that were trained sparse come back from a folder as they were."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM

import rarefy
from activations.tiny import llama, next_loss, opt, text, train
from rarefy.activations.fatrelu import FATReLU
from rarefy.activations.q_sparse import QSparse, settle
from rarefy.activations.relufication import Relufication
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.core.errors import FileError, ModelError
from rarefy.recipes.convert import convert


def fat(model: nn.Module) -> None:
    Relufication().apply(model)
    FATReLU(0.02).apply(model)


def blocks(model: nn.Module) -> None:
    QSparse(0.5, block=8, ternary=True).apply(model)
    train(model, 1)
    settle(model)


CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "drelu": DReLU().apply,
    "fatrelu": fat,
    "squared": Relufication("squared", inputs=True).apply,
    "shifted": Relufication("shifted", shift=0.3).apply,
    "shifted, inputs too": Relufication("shifted", shift=0.3, inputs=True).apply,
    "blocks": blocks,
}


@pytest.mark.parametrize(("make", "change"), [(llama, name) for name in CHANGES] + [(opt, "squared"), (opt, "fatrelu")])
def test_the_loaded_model_computes_the_same(make: Callable[[], nn.Module], change: str, tmp_path: Path) -> None:
    model = make().eval()
    with torch.no_grad():
        before = model(input_ids=text()).logits
        torch.enable_grad()(CHANGES[change])(model)
        model.eval()
        wanted = model(input_ids=text()).logits
        rarefy.save(model, tmp_path / "model")
        loaded = rarefy.load(tmp_path / "model")
        assert torch.allclose(loaded(input_ids=text()).logits, wanted, atol=1e-5)  # the attention's kernel may differ
    assert change == "fatrelu" or not torch.allclose(before, wanted, atol=1e-3)


def test_what_is_still_trained_comes_back_with_its_gradients_straight_through(tmp_path: Path) -> None:
    model = llama().eval()
    QSparse(0.5, squared=False).apply(model)
    rarefy.save(model, tmp_path)
    loaded = rarefy.load(tmp_path)
    found = []
    for each in (model, loaded):
        next_loss(each, text()).backward()
        found.append(each.get_submodule("model.embed_tokens").weight.grad)
    assert torch.allclose(*found, atol=1e-6)
    settle(model)
    model.zero_grad()
    next_loss(model, text()).backward()
    assert not torch.allclose(model.get_submodule("model.embed_tokens").weight.grad, found[1], atol=1e-6)


def test_weights_behind_ternary_ones_are_not_saved_before_they_are_settled(tmp_path: Path) -> None:
    model = llama().eval()
    QSparse(0.5, ternary=True).apply(model)
    with pytest.raises(ModelError, match=r"q_proj trains the weight behind ternary values.*settle\(model\) first"):
        rarefy.save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    settle(model)
    rarefy.save(model, tmp_path / "model")
    with torch.no_grad():
        again = rarefy.load(tmp_path / "model")(input_ids=text()).logits
        assert torch.allclose(again, model(input_ids=text()).logits, atol=1e-5)


def masked() -> nn.Module:
    """A BERT for masked words, whose head computes the function of its config too."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(vocab_size=32, hidden_act="gelu", **sizes)).eval()


@pytest.mark.parametrize("change", ["fatrelu", "squared", "shifted", "shifted, inputs too"])
def test_a_head_with_the_old_function_keeps_it(change: str, tmp_path: Path) -> None:
    model = masked()
    with torch.no_grad():
        CHANGES[change](model)
        wanted = model(input_ids=text()).logits
        rarefy.save(model, tmp_path / "first")
        loaded = rarefy.load(tmp_path / "first")
        assert torch.equal(loaded(input_ids=text()).logits, wanted)
        rarefy.save(loaded, tmp_path / "second")
        assert torch.equal(rarefy.load(tmp_path / "second")(input_ids=text()).logits, wanted)
    with pytest.raises(KeyError, match="feed_forward_"):
        BertForMaskedLM.from_pretrained(tmp_path / "first")
    path = tmp_path / "first" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"other_activations": None}))
    with pytest.raises(FileError, match="other_activations is None"):
        rarefy.load(tmp_path / "first")


def test_another_function_after_the_first_is_told_too(tmp_path: Path) -> None:
    model = masked()
    Relufication().apply(model)
    Relufication("squared").apply(model)
    rarefy.save(model, tmp_path / "model")
    with torch.no_grad():
        wanted = model(input_ids=text()).logits
        assert torch.equal(rarefy.load(tmp_path / "model")(input_ids=text()).logits, wanted)


def test_models_that_compute_one_function_say_it_by_its_name(tmp_path: Path) -> None:
    model = llama().eval()
    Relufication().apply(model)
    rarefy.save(model, tmp_path / "model")
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert said["hidden_act"] == "relu" and "other_activations" not in said
    with torch.no_grad():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(input_ids=text()).logits
        assert torch.allclose(again, model(input_ids=text()).logits, atol=1e-5)


def test_a_function_that_transformers_lacks_is_not_loaded_as_another(tmp_path: Path) -> None:
    model = llama().eval()
    Relufication("shifted", shift=0.5).apply(model)
    rarefy.save(model, tmp_path / "model")
    with pytest.raises(KeyError, match="shifted_relu"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    said = json.loads(path.read_text())
    assert said["shifted_relu"] == 0.5
    for shift in (None, "0.5", True, [0.5], math.nan):
        path.write_text(json.dumps(said | {"shifted_relu": shift}))
        with pytest.raises(FileError, match=r"shifted_relu|not a finite number"):
            rarefy.load(tmp_path / "model")


def test_a_shift_is_kept_by_saving_again_and_by_conversion(tmp_path: Path) -> None:
    model = llama().eval()
    Relufication("shifted", shift=0.5).apply(model)
    rarefy.save(model, tmp_path / "first")
    rarefy.save(rarefy.load(tmp_path / "first"), tmp_path / "second")
    convert(tmp_path / "second", tmp_path / "third", "hf")
    with torch.no_grad():
        wanted = model(input_ids=text()).logits
        for name in ("second", "third"):
            assert torch.allclose(rarefy.load(tmp_path / name)(input_ids=text()).logits, wanted, atol=1e-5)
