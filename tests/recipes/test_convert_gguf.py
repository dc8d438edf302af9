"""GGUF of a Llama and a Qwen2 with zeros: the same tensors, and the same logits from llama.cpp."""

import json
from pathlib import Path

import numpy
import pytest
import torch

from formats.peers import needs, run
from rarefy.core.errors import FileError, ModelError
from rarefy.recipes.convert import convert
from rarefy.recipes.store import save

transformers = pytest.importorskip("transformers")
PROGRAM = Path(__file__).with_name("gguf_program.py")


def folder(kind: str, path: Path) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[kind](
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=300, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for module in model.model.layers.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(4 * (torch.rand(module.weight.shape) < 0.4))
                if module.bias is not None:
                    module.bias.normal_()
    save(model, path)
    alphabet = {chr(i): i for i in range(32, 127)} | {"ab": 0, "<|end|>": 1}
    said = {"model": {"type": "BPE", "vocab": alphabet, "merges": [["a", "b"]]}}
    (path / "tokenizer.json").write_text(json.dumps(said | {"added_tokens": [{"content": "<|end|>", "id": 1}]}))
    return model


@needs("llama")
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_llama_cpp_computes_the_same(tmp_path, kind) -> None:
    pytest.importorskip("gguf")
    model = folder(kind, tmp_path / "src")
    found = convert(tmp_path / "src", tmp_path / "out", "gguf-dense")
    assert found.files == ("model.gguf",) and not found.notes
    ids = torch.randint(0, 300, (2, 9))
    numpy.save(tmp_path / "ids.npy", ids.numpy())
    run("llama", PROGRAM, tmp_path / "out" / "model.gguf", tmp_path / "ids.npy", tmp_path / "logits.npy")
    with torch.inference_mode():
        expected = model(ids).logits
    worst = float((torch.from_numpy(numpy.load(tmp_path / "logits.npy")) - expected).abs().max())
    assert worst < 2e-3 * float(expected.abs().max()), worst


def test_zeros_stay_and_heads_are_turned(tmp_path) -> None:
    gguf = pytest.importorskip("gguf")
    model = folder("llama", tmp_path / "src")
    convert(tmp_path / "src", tmp_path / "out", "gguf-dense")
    held = {t.name: torch.tensor(t.data) for t in gguf.GGUFReader(str(tmp_path / "out" / "model.gguf")).tensors}
    query = model.model.layers[1].self_attn.q_proj.weight
    assert torch.equal(held["blk.1.attn_q.weight"][1], query[8]), "row 1 of a head of 16 is the partner of row 0"
    assert int(held["blk.1.attn_q.weight"].eq(0).sum()) == int(query.eq(0).sum()) > 2000
    assert torch.equal(held["blk.0.ffn_down.weight"], model.model.layers[0].mlp.down_proj.weight)
    assert len(held) == len(model.state_dict())


def test_other_architectures_are_refused(tmp_path) -> None:
    pytest.importorskip("gguf")
    folder("llama", tmp_path / "src")
    config = tmp_path / "src" / "config.json"
    said = json.loads(config.read_text())
    for change in ({"model_type": "gpt2"}, {"rope_scaling": {"rope_type": "yarn"}, "rope_parameters": None}):
        config.write_text(json.dumps(said | change))
        with pytest.raises(ModelError, match="convert_hf_to_gguf"):
            convert(tmp_path / "src", tmp_path / "out", "gguf-dense")


def test_a_missing_package_is_named(tmp_path, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(FileError, match="pip install gguf"):
        convert(tmp_path / "src", tmp_path / "out", "gguf-dense")
