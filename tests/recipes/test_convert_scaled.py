"""Quantised folders in a bitmask layout: the stored numbers, their scales and their groups stay, values to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rarefy.core.grid import QuantizeSpec
from rarefy.formats import bitmask, read
from rarefy.formats.held import dense
from rarefy.formats.packed import Packed
from rarefy.formats.scaled import Scaled, fold
from rarefy.formats.shira import write_shira
from rarefy.recipes.convert import Conversion, Options, convert
from rarefy.recipes.measure import prune
from rarefy.recipes.store import load, save
from transformers_tiny import tiny

transformers = pytest.importorskip("transformers")
KINDS = ("int8 channel", "int8 tensor", "int8 zero point", "int8 group", "fp8 channel", "fp8 tensor")
GROUPS = {
    "quant_method": "compressed-tensors",
    "version": "0.9.0",
    "format": "int-quantized",
    "ignore": ["pooler.dense"],
    "quantization_status": "compressed",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}},
    "sparsity_config": {"format": "dense", "targets": ["Linear"]},
    "auto_map": {"AutoModel": "code.Model"},
}


def two_of_four_(weight: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.rand(weight.shape[0], weight.shape[1] // 4, 4, generator=generator).argsort(-1)
    return weight.masked_fill_((order >= 2).reshape(weight.shape), 0)


def quantised(weight: Tensor, kind: str) -> dict[str, Tensor]:
    """The parts of a layer, by their names in it."""
    name, _, how = kind.partition(" ")
    most = 448 if name == "fp8" else 127
    groups = weight.reshape(weight.shape[0], 4, -1) if how == "group" else weight[:, None]
    scale = groups.abs().amax(-1) / most if how != "tensor" else weight.abs().max().reshape(1) / most
    spread = scale.repeat_interleave(weight.shape[1] // scale.shape[-1], 1) if scale.dim() == 2 else scale
    stored = weight / spread
    parts = {"weight": stored.to(torch.float8_e4m3fn) if name == "fp8" else stored.round().to(torch.int8)}
    if how == "zero point":
        parts["weight_zero_point"] = torch.arange(len(scale)).reshape(-1, 1).remainder(3).to(torch.int8)
    return parts | {"weight_scale": scale, "input_scale": torch.tensor([0.25])}


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    save(tiny("Bert", num_hidden_layers=1), folder)
    return folder


def source_of(bert: Path, folder: Path, kind: str, *, sparse: bool, said: object = GROUPS) -> Path:
    """The folder with each linear layer of its encoder quantised, dense or in bitmasks."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(bert / "model.safetensors").items():
        if "encoder" not in name or tensor.dim() != 2:
            stored[name] = tensor
            continue
        module = name.removesuffix("weight")
        parts = quantised(two_of_four_(tensor.clone(), generator), kind)
        if sparse:
            parts |= bitmask.pack(Packed.from_dense(parts.pop("weight")))
        stored |= {module + part: value for part, value in parts.items()}
    save_file(stored, folder / "model.safetensors")
    config = json.loads((bert / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"quantization_config": said} if said else {})))
    return folder


def state(folder: Path) -> dict[str, Tensor]:
    return {name: dense(entry) for name, entry in read(folder).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        tensor.dtype == b[name].dtype and torch.equal(tensor, b[name]) for name, tensor in a.items()
    )


def block(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("to", ["bitmask", "bitmask-24"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "bitmask"])
@pytest.mark.parametrize("kind", KINDS)
def test_stored_numbers_and_scales_stay_and_mean_the_same(bert, tmp_path, kind, sparse, to) -> None:
    source = source_of(bert, tmp_path / "source", kind, sparse=sparse)
    found = convert(source, tmp_path / "out", to)
    before, after = read(source), read(tmp_path / "out")
    names = {name for name, entry in before.items() if isinstance(entry, Scaled)}
    assert len(names) == 6 and names == {name for name, entry in after.items() if isinstance(entry, Scaled)}
    assert names == set(found.sparse) and all(0.5 <= zeros < 0.6 for zeros in found.sparse.values())
    for name in names:
        a, b = before[name], after[name]
        assert isinstance(a, Scaled) and isinstance(b, Scaled) and isinstance(b.stored, Packed)
        assert b.stored.dtype == (torch.int8 if "int8" in kind else torch.float8_e4m3fn)
        assert torch.equal(b.scale, a.scale) and torch.equal(b.input_scale, a.input_scale)
        assert (a.zero is None) == (b.zero is None) == (kind != "int8 zero point")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert all(stored[name.replace(".weight", ".compressed")].element_size() == 1 for name in names)
    assert same(state(source), state(tmp_path / "out"))
    assert same(dict(load(source).state_dict()), dict(load(tmp_path / "out").state_dict()))
    assert "6 quantised weights keep their stored numbers and scales" in str(found)
    assert weight_bytes(tmp_path / "out", names) < 0.4 * sum(t.nbytes for n, t in state(source).items() if n in names)


def weight_bytes(folder: Path, names: set[str]) -> int:
    modules = {name.removesuffix(".weight") for name in names}
    stored = load_file(folder / "model.safetensors")
    return sum(t.nbytes for name, t in stored.items() if name.rpartition(".")[0] in modules and "bias" not in name)


def test_the_groups_are_carried_with_the_layout_beside_them(bert, tmp_path) -> None:
    source = source_of(bert, tmp_path / "source", "int8 channel", sparse=False)
    found = convert(source, tmp_path / "out", "bitmask")
    said = block(tmp_path / "out")
    carried = ("config_groups", "format", "ignore", "quantization_status")
    assert {name: said[name] for name in carried} == {name: GROUPS[name] for name in carried}
    assert said["sparsity_config"]["format"] == "sparse-bitmask" and "auto_map" not in said
    assert said["sparsity_config"]["targets"] == [name.removesuffix(".weight") for name in found.sparse]
    assert found.file_bytes < convert(source, tmp_path / "hf", "hf").file_bytes


def test_weights_that_no_bitmask_makes_smaller_stay_integers_too(tmp_path) -> None:
    """A matrix without zeros, a kernel of a convolution, columns out of order."""
    source = {
        "a.weight": torch.randint(1, 100, (16, 32), dtype=torch.int8),
        "a.weight_scale": torch.rand(16, 4),
        "a.weight_g_idx": torch.arange(32, dtype=torch.int32).remainder(4),
        "b.weight": torch.randint(-3, 3, (4, 4, 3, 3), dtype=torch.int8),
        "b.weight_scale": torch.tensor([0.5]),
    }
    save_file(source, tmp_path / "model.safetensors")
    found = convert(tmp_path / "model.safetensors", tmp_path / "out", "bitmask")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not found.sparse and same(stored, source)
    assert same(state(tmp_path / "out"), state(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("said", [None, {"quant_method": "fp8"}, GROUPS | {"format": "os.system"}])
def test_scales_without_known_groups_get_a_format_that_others_refuse(bert, tmp_path, said) -> None:
    source = source_of(bert, tmp_path / "source", "fp8 tensor", sparse=False, said=said)
    found = convert(source, tmp_path / "out", "bitmask")
    assert "only rarefy reads this" in str(found)
    assert block(tmp_path / "out")["sparsity_config"]["format"] == "rarefy-scaled"
    assert "config_groups" not in block(tmp_path / "out") and "os.system" not in json.dumps(block(tmp_path / "out"))
    assert same(dict(load(source).state_dict()), dict(load(tmp_path / "out").state_dict()))


def test_hf_is_dense_and_says_so(bert, tmp_path) -> None:
    source = source_of(bert, tmp_path / "source", "int8 channel", sparse=True)
    found = convert(source, tmp_path / "out", "hf")
    assert same(load_file(tmp_path / "out" / "model.safetensors"), state(source))
    assert "and 5 more: quantised in the source, float32 here, because this target is dense" in str(found)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_what_an_adapter_changes_is_dense_and_left_out_of_the_groups(bert, tmp_path) -> None:
    source = source_of(bert, tmp_path / "source", "int8 channel", sparse=False)
    name = "encoder.layer.0.attention.self.query.weight"
    write_shira(tmp_path / "adapter", {name: torch.eye(32)}, base_model="bert")
    found = convert(source, tmp_path / "out", "bitmask", Options(adapter=tmp_path / "adapter"))
    assert f"{name!r}: quantised in the source, float32 here, because the adapter's" in str(found)
    assert block(tmp_path / "out")["ignore"] == ["pooler.dense", name.removesuffix(".weight")]
    expected = state(source)
    expected[name] = expected[name] + torch.eye(32)
    assert same(state(tmp_path / "out"), expected)


def test_integers_of_rarefy_itself_become_floats_and_the_report_says_so(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    prune(model, "magnitude", sparsity=0.5, quantize=QuantizeSpec(8, rounding="nearest"), measure=False)
    save(model, tmp_path / "source")
    found: Conversion = convert(tmp_path / "source", tmp_path / "out", "bitmask")
    assert "'0.weight': quantised in the source, float32 here" in str(found)
    assert same(state(tmp_path / "out"), state(tmp_path / "source"))


def test_the_parts_of_a_scaled_weight_fold_to_the_same() -> None:
    parts = {"in_proj_weight": torch.ones(2, 4, dtype=torch.int8), "in_proj_weight_scale": torch.rand(2, 2)}
    parts |= {"in_proj_weight_zero_point": torch.zeros(2, 2), "in_proj_weight_g_idx": torch.tensor([0, 1, 1, 0])}
    parts |= {"in_proj_input_scale": torch.ones(1), "in_proj_input_zero_point": torch.zeros(1)}
    (entry,) = fold(parts).values()
    assert isinstance(entry, Scaled) and same(entry.parts("in_proj_weight"), parts)


def test_a_graph_says_what_it_holds_wider_than_the_folder(bert, tmp_path) -> None:
    pytest.importorskip("onnxscript")
    source = source_of(bert, tmp_path / "source", "int8 channel", sparse=False)
    notes = convert(source, tmp_path / "onnx", "onnx").notes
    assert len(notes) == 2 and notes[1].endswith(
        "and 5 more: quantised in the source, float32 here, because this target is dense"
    )
    save(tiny("Bert", num_hidden_layers=1).bfloat16(), tmp_path / "half")
    notes = convert(tmp_path / "half", tmp_path / "half-onnx", "onnx").notes
    assert notes[1:] == ("bfloat16 in the source, float32 here: this target is written so",)
    assert len(convert(bert, tmp_path / "plain", "onnx").notes) == 1
