"""Models with split feed-forward layers come back from their folder; a folder that lies about one is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rarefy
from rarefy.core.errors import FileError
from rarefy.recipes.convert import convert
from rarefy.recipes.store import load, save
from rarefy.structured.ffsplit import FFSplit
from transformers_tiny import ids, output, tiny

transformers = pytest.importorskip("transformers")


def made(weights: float = 0.7, **more) -> nn.Module:
    model = tiny("Llama", hidden_size=32, intermediate_size=96, **more)
    FFSplit(heavy=0.25, weights=weights).apply(model, [{"input_ids": ids(seed=i)} for i in range(3)])
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("more", [{}, {"mlp_bias": True}, {"num_hidden_layers": 3}], ids=["plain", "bias", "three"])
@pytest.mark.parametrize("weights", [0.7, 1.0], ids=["thin", "whole"])
def test_a_split_model_comes_back(tmp_path, weights, more) -> None:
    model = made(weights, **more)
    save(model, tmp_path)
    back = load(tmp_path)
    assert type(back) is type(model) and same(model, back)
    assert torch.equal(output(model, ids()), output(back, ids()))
    assert torch.equal(*(m.generate(ids(1, 4), max_new_tokens=4, do_sample=False) for m in (model, back)))
    assert (tiny("Llama", intermediate_size=96, **more).num_parameters() > back.num_parameters()) == (weights < 1)


def test_a_layer_may_shrink_to_a_small_share_of_what_the_config_asks_for(tmp_path) -> None:
    """The bound on what a config may build knows of it: here the layers were eight times as large."""
    model = tiny("Llama", hidden_size=64, intermediate_size=2048)
    FFSplit(heavy=0.01, weights=0.1).apply(model, [{"input_ids": ids(seed=i)} for i in range(3)])
    save(model, tmp_path)
    assert same(model, load(tmp_path))


def test_it_is_pruned_and_stored_sparse_like_any_other(tmp_path) -> None:
    model = made()
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    assert any(".heavy.up" in tensor.name for tensor in save(model, tmp_path).pruned)
    assert same(model, load(tmp_path))


def test_what_others_could_not_build_is_not_written_for_them(tmp_path) -> None:
    save(made(), tmp_path / "own")
    with pytest.raises(ImportError, match="compressed-tensors"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    for to in ("hf", "bitmask", "gguf-dense"):
        pytest.importorskip("gguf")
        with pytest.raises(FileError, match=r"split feed-forward layers.*rarefy\.load"):
            convert(tmp_path / "own", tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sparse", [False, True])
def test_transformers_reads_it_too(tmp_path, sparse, transformers_tables) -> None:
    pytest.importorskip("transformers", "5.0")
    model = made()
    if sparse:
        rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    save(model, tmp_path)
    rarefy.enable_transformers()
    found, said = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert same(found, model) and not any(said.values()), said
    base = transformers.AutoModel.from_pretrained(tmp_path)
    assert same(base, model.model)


HEAVY, REST = "model.layers.0.mlp.heavy", "model.layers.0.mlp.rest"
LIES = {
    "a part left out": lambda t: t.pop(f"{HEAVY}.down.weight"),
    "a thin matrix left out": lambda t: t.pop(f"{REST}.up.0.weight"),
    "thin matrices that do not follow": lambda t: t.update({f"{REST}.up.0.weight": torch.zeros(3, 32)}),
    "too few neurons down": lambda t: t.update({f"{HEAVY}.down.weight": torch.zeros(32, 7)}),
    "another width": lambda t: t.update({f"{HEAVY}.up.weight": torch.zeros(24, 16)}),
    "no matrix": lambda t: t.update({f"{HEAVY}.up.weight": torch.zeros(24)}),
    "a bias of another size": lambda t: t.update({f"{HEAVY}.up.bias": torch.zeros(5)}),
    "a bias between the thin ones": lambda t: t.update({f"{REST}.up.0.bias": torch.zeros(3)}),
    "both forms": lambda t: t.update({f"{REST}.up.weight": torch.zeros(72, 32)}),
    "of no layer": lambda t: t.update({"model.norm.heavy.up.weight": torch.zeros(4, 4)}),
    "of the model itself": lambda t: t.update({"model.heavy.up.weight": torch.zeros(4, 4)}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_split_that_lies_is_refused(tmp_path, lie) -> None:
    save(made(), tmp_path)
    file = tmp_path / "model.safetensors"
    held = load_file(file)
    LIES[lie](held)
    save_file(held, file, {"format": "pt"})
    with pytest.raises(FileError, match=r"split layer .*(do not belong together)|do not belong together"):
        load(tmp_path)


def test_a_class_without_such_layers_is_refused(tmp_path) -> None:
    save(made(), tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    tiny("GPT2").save_pretrained(tmp_path / "other")
    other = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(other | {"quantization_config": said["quantization_config"]}))
    with pytest.raises(FileError, match=r"'model\.layers\.0\.mlp' that could be split"):
        load(tmp_path)
