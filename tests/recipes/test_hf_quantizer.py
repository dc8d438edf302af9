"""transformers' own `from_pretrained` on folders that are stored sparse."""

import json
import sys
from pathlib import Path
from subprocess import run

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import FileError
from rarefy.core.grid import QuantizeSpec
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


def test_damage_is_refused(folder) -> None:
    path, _ = folder
    rarefy.enable_transformers()
    file = path / "own" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    held = load_file(file)
    name = next(name for name in held if name.endswith(".bitmask"))
    held[name] = held[name] ^ 1
    save_file(held, file, {"format": "pt"})
    with pytest.raises((FileError, RuntimeError), match=r"bitmask|conver"):
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
