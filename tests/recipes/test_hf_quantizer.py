"""transformers' own `from_pretrained` on folders that are stored sparse."""

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import rarefy
from rarefy.core.errors import FileError
from rarefy.core.grid import QuantizeSpec
from rarefy.formats import bitmask
from rarefy.formats.packed import Packed
from rarefy.recipes.convert import convert
from rarefy.recipes.hf_quantizer import conversions, is_ours
from rarefy.recipes.store import save

transformers = pytest.importorskip("transformers", "5.0")
pytestmark = pytest.mark.usefixtures("transformers_tables")


@pytest.fixture
def folder(tmp_path) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.bert.encoder.parameters():
            if parameter.dim() == 2:
                order = torch.rand(parameter.shape[0], parameter.shape[1] // 4, 4).argsort(-1)
                parameter[(order > 1).reshape(parameter.shape)] = 0
    save(model, tmp_path / "own")
    return tmp_path, model


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_every_sparse_layout_loads_as_the_dense_model(folder) -> None:
    path, model = folder
    rarefy.enable_transformers()
    rarefy.enable_transformers()
    for to in ("bitmask", "bitmask-24"):
        assert convert(path / "own", path / to, to).sparse
    for name in ("own", "bitmask", "bitmask-24"):
        found, said = transformers.AutoModelForMaskedLM.from_pretrained(path / name, output_loading_info=True)
        assert same(found, model), name
        assert not any(said.values()), said
    base = transformers.AutoModel.from_pretrained(path / "own", add_pooling_layer=False)
    assert same(base.encoder, model.bert.encoder), "the prefix of the head's class is taken off"
    found.save_pretrained(path / "again")
    assert "quantization_config" not in json.loads((path / "again" / "config.json").read_text())
    assert same(transformers.AutoModelForMaskedLM.from_pretrained(path / "again"), model)


def test_rounded_layers_load_too(folder) -> None:
    path, model = folder
    rarefy.enable_transformers()
    batches = [{"input_ids": torch.randint(0, 50, (4, 8))} for _ in range(2)]
    rarefy.prune(model, "magnitude", sparsity=0.5, data=batches, quantize=QuantizeSpec(8), measure=False)
    assert any(t.encoding == "int8" for t in save(model, path / "codes").tensors)
    assert same(transformers.AutoModelForMaskedLM.from_pretrained(path / "codes"), model)


def test_the_older_key_counts_as_the_newer_one(folder) -> None:
    path, model = folder
    convert(path / "own", path / "old", "bitmask")
    config = path / "old" / "config.json"
    said = json.loads(config.read_text())
    said["compression_config"] = said.pop("quantization_config")
    config.write_text(json.dumps(said))
    given = transformers.AutoConfig.from_pretrained(path / "old")
    rarefy.enable_transformers()
    rarefy.enable_transformers()
    found, info = transformers.AutoModelForMaskedLM.from_pretrained(path / "old", output_loading_info=True)
    assert same(found, model)
    assert same(found, rarefy.load(path / "old"))
    assert not any(info.values()), info
    assert same(transformers.AutoModelForMaskedLM.from_pretrained(path / "old", config=given), model)
    assert hasattr(given, "compression_config"), "a config that was given stays as it was"
    found.save_pretrained(path / "again")
    written = json.loads((path / "again" / "config.json").read_text())
    assert not {"compression_config", "quantization_config"} & written.keys()
    assert same(transformers.AutoModelForMaskedLM.from_pretrained(path / "again"), model)


def test_a_folder_of_an_early_compressor_loads_with_either_key(folder) -> None:
    """Weights and biases alike are stored sparse, under their whole names, cut behind the last axis."""
    path, model = folder
    model.save_pretrained(path / "early")
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(path / "early" / "model.safetensors").items():
        parts = bitmask.pack(Packed.from_dense(tensor, by_row=False))
        if tensor.dim() == 1:
            parts["row_offsets"] = torch.tensor(0)
        stored |= {f"{name}.{part}": value.clone() for part, value in parts.items()}
    save_file(stored, path / "early" / "model.safetensors", {"format": "pt"})
    config = path / "early" / "config.json"
    plain = json.loads(config.read_text())
    said = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask", "ignore": []}}
    rarefy.enable_transformers()
    for key in ("compression_config", "quantization_config"):
        config.write_text(json.dumps(plain | {key: said}))
        found = transformers.AutoModelForMaskedLM.from_pretrained(path / "early")
        assert same(found, model), key
        assert same(found, rarefy.load(path / "early")), key


def test_an_older_key_that_is_not_ours_changes_nothing() -> None:
    from transformers import modeling_utils

    rarefy.enable_transformers()
    sparse = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    for said in (sparse | {"config_groups": {"group_0": {}}}, {"format": "pack-quantized"}, "sparse-bitmask", None):
        config = transformers.BertConfig(compression_config=said)
        assert modeling_utils.get_hf_quantizer(config, None, None, True, {})[0] is None
        assert config.compression_config == said
        assert not hasattr(config, "quantization_config")


def test_damage_is_refused(folder) -> None:
    path, _ = folder
    rarefy.enable_transformers()
    file = path / "own" / "model.safetensors"
    held = load_file(file)
    name = next(name for name in held if name.endswith(".bitmask"))
    held[name] = held[name] ^ 1
    save_file(held, file, {"format": "pt"})
    with pytest.raises((FileError, RuntimeError), match=r"bitmask|conver"):
        transformers.AutoModelForMaskedLM.from_pretrained(path / "own")


def test_a_config_of_a_far_larger_model_is_refused_before_it_is_filled(folder) -> None:
    path, _ = folder
    rarefy.enable_transformers()
    said = json.loads((path / "own" / "config.json").read_bytes())
    (path / "own" / "config.json").write_text(json.dumps(said | {"hidden_size": 3072, "num_attention_heads": 2}))
    with pytest.raises(FileError, match=r"config\.json asks for \d+ parameters, far more than files of \d+ bytes hold"):
        transformers.AutoModelForMaskedLM.from_pretrained(path / "own")


def test_what_is_not_ours_stays_with_compressed_tensors() -> None:
    sparse = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}}
    assert is_ours(sparse)
    assert not is_ours(sparse | {"config_groups": {"group_0": {}}})
    for said in ({}, {"sparsity_config": {"format": "os.system"}}, {"sparsity_config": ["sparse-bitmask"]}):
        assert not is_ours(said)


def test_both_namings_get_patterns_of_their_own() -> None:
    parts = ("shape", "compressed", "bitmask", "row_offsets")
    names = [f"{prefix}.{part}" for prefix in ("a.q", "a.k.weight", "b.in_proj_weight") for part in parts]
    found = [target for (_, target), _ in conversions([*names, "c.bitmask", "a.bias"])]
    assert sorted(found) == [".weight", "in_proj_weight", "weight"]
    assert conversions(["c.bitmask", "a.weight"]) == []


def test_importing_rarefy_does_not_import_transformers() -> None:
    program = "import sys, rarefy; assert 'transformers' not in sys.modules and 'torch' not in sys.modules"
    assert run([sys.executable, "-c", program], check=False).returncode == 0
