"""Folders converted for other programs: the same weights, the same outputs, and nothing lost on the way."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rarefy.core.errors import FileError, ModelError, UnknownNameError
from rarefy.formats import read
from rarefy.formats.held import dense
from rarefy.formats.onnx_sparse import make_sparse
from rarefy.formats.packed import Packed
from rarefy.formats.shira import write_shira
from rarefy.recipes.convert import Options, convert
from rarefy.recipes.store import load, save
from transformers_tiny import tiny

transformers = pytest.importorskip("transformers")


def prune_(model: nn.Module) -> nn.Module:
    """Linear layers alternate between 2:4 and 80 % zeros."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.Linear)):
            weight = module.weight
            if i % 2:
                weight[torch.rand(weight.shape, generator=generator) < 0.8] = 0
            else:
                order = torch.rand(weight.shape[0], weight.shape[1] // 4, 4, generator=generator).argsort(-1)
                weight[(order >= 2).reshape(weight.shape)] = 0
    return model.eval()


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save(prune_(tiny("Bert", num_hidden_layers=1)), folder)
    (folder / "vocab.txt").write_text("a\nb\n")
    return folder


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {name: dense(entry) for name, entry in read(folder).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_hf_is_what_any_loader_reads(bert, tmp_path) -> None:
    found = convert(bert, tmp_path, "hf")
    assert set(found.files) == {"model.safetensors", "config.json", "vocab.txt"} and not found.sparse
    assert same(load_file(tmp_path / "model.safetensors"), state(bert))
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded = transformers.AutoModel.from_pretrained(tmp_path)
    assert same(dict(loaded.state_dict()), dict(load(bert).state_dict()))


@pytest.mark.parametrize("to", ["bitmask", "bitmask-24"])
def test_bitmasks_come_back_and_name_their_layout(bert, tmp_path, to) -> None:
    found = convert(bert, tmp_path, to, Options(shard_bytes=20_000))
    assert len([file for file in found.files if file.endswith(".safetensors")]) > 1
    entries = read(tmp_path)
    sparse = {name for name, entry in entries.items() if isinstance(entry, Packed)}
    assert sparse == set(found.sparse) and len(sparse) >= 3
    assert same(state(tmp_path), state(bert))
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]["sparsity_config"]
    assert said["targets"] == [name.removesuffix(".weight") for name in found.sparse]
    assert said["format"] == ("sparse-bitmask" if to == "bitmask" else "sparse-24-bitmask")
    assert said["sparsity_structure"] == ("unstructured" if to == "bitmask" else "2:4")
    assert same(dict(load(tmp_path).state_dict()), dict(load(bert).state_dict()))


def test_an_adapter_is_merged_on_the_way(bert, tmp_path) -> None:
    name = "encoder.layer.0.attention.self.query.weight"
    change = torch.zeros(32, 32)
    change[3, 5] = 7.0
    write_shira(tmp_path / "adapter", {name: change}, base_model="bert")
    convert(bert, tmp_path / "out", "hf", Options(adapter=tmp_path / "adapter"))
    expected = state(bert)
    expected[name] = expected[name] + change
    assert same(state(tmp_path / "out"), expected)


def test_onnx_runs_to_the_same_output_for_any_shape(bert, tmp_path) -> None:
    """As it is written, and with its zeros left out of the file."""
    pytest.importorskip("onnxscript")
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    found = convert(bert, tmp_path, "onnx")
    assert "vocab.txt" in found.files and "ONNX Runtime" in found.notes[0]
    path, slim = tmp_path / "model.onnx", tmp_path / "slim.onnx"
    slim.write_bytes(path.read_bytes())
    sparse = make_sparse(slim)
    graph = onnx.load(str(path)).graph
    assert len(sparse) == len(onnx.load(str(slim)).graph.sparse_initializer) >= 2 and not graph.sparse_initializer
    assert slim.stat().st_size < path.stat().st_size and all(zeros > 0.5 for zeros in sparse.values())
    held = [onnx.numpy_helper.to_array(t) for t in graph.initializer]
    zeros = sum(int(t.eq(0).sum()) for n, t in state(bert).items() if n.startswith("encoder") and t.dim() == 2)
    assert sum(int((t == 0).sum()) for t in held if t.ndim == 2 and min(t.shape) >= 32) >= zeros
    ids = torch.randint(0, 50, (3, 11))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    with torch.inference_mode():
        expected = load(bert, compiled=False)(input_ids=ids, attention_mask=mask).last_hidden_state
    for file in (path, slim):
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        assert torch.allclose(torch.from_numpy(output), expected, atol=1e-5)


def test_openvino_runs_to_the_same_output(bert, tmp_path) -> None:
    openvino = pytest.importorskip("openvino")
    found = convert(bert, tmp_path, "openvino")
    assert {"openvino_model.xml", "openvino_model.bin"} <= set(found.files)
    run = openvino.Core().compile_model(str(tmp_path / "openvino_model.xml"), "CPU")
    ids = torch.randint(0, 50, (3, 11))
    output = run({"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()})[0]
    with torch.inference_mode():
        expected = load(bert, compiled=False)(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    assert float((torch.from_numpy(output) - expected).abs().max()) < 0.02, "bfloat16 machines round"


def test_what_cannot_be_done_is_said(bert, tmp_path) -> None:
    with pytest.raises(UnknownNameError, match="bitmask"):
        convert(bert, tmp_path / "x", "bitmsk")
    with pytest.raises(FileError, match="source as well"):
        convert(bert, bert, "hf")
    save(nn.Linear(4, 4), tmp_path / "plain")
    with pytest.raises(FileError, match=r"no config\.json"):
        convert(tmp_path / "plain", tmp_path / "x", "onnx")
    assert "nothing fitted" in convert(tmp_path / "plain", tmp_path / "x", "bitmask-24").notes[0]
    vision = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4
    )
    save(transformers.ViTModel(vision), tmp_path / "vit")
    with pytest.raises(ModelError, match="export_onnx"):
        convert(tmp_path / "vit", tmp_path / "x", "onnx")


def test_the_command(bert, tmp_path) -> None:
    from typer.testing import CliRunner

    from rarefy.cli.main import app

    done = CliRunner().invoke(app, ["convert", str(bert), str(tmp_path / "out"), "--to", "bitmask"])
    assert done.exit_code == 0 and "weights stored sparse" in done.stdout
    failed = CliRunner().invoke(app, ["convert", str(bert), str(tmp_path / "out"), "--to", "zip"])
    assert failed.exit_code == 2
