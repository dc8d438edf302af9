"""From shards to shards gives what pruning the loaded model gives, in the files' own names, sizes and types."""

import json

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import rarefy
from rarefy.core.errors import DTypeError, EvidenceError, FileError, ModelError, SparsityError
from rarefy.pruning import prune
from rarefy.recipes.folder_target import REPORT, WORK
from recipes.folders import KINDS, batches, sums, write_folder


def assert_equals_in_memory(source, target, wide=torch.float32, ignore=(), **asked):
    """Prunes both ways; masks are the same and values too, to rounding. Gives the folder's report."""
    report = rarefy.prune_folder(source, target, data=batches(), ignore=ignore, **asked)
    wanted = rarefy.load(source).to(wide)
    known = prune(wanted, data=batches(), ignore=ignore, **{k: v for k, v in asked.items() if k != "dtype"})
    got = rarefy.load(target).state_dict()
    assert any((tensor == 0).float().mean() > 0.4 for tensor in got.values())
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(got[name] == 0, tensor == 0), name
        torch.testing.assert_close(got[name].to(wide), tensor, rtol=1e-5, atol=1e-6, msg=name)
    assert [site.name for site in report.prune.sites] == [site.name for site in known.sites]
    assert [site.zeros for site in report.prune.sites] == [site.zeros for site in known.sites]
    assert report.prune.skipped == known.skipped
    return report


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_equals_the_loaded_one(kind, tmp_path) -> None:
    source = write_folder(tmp_path / "source", kind)
    assert_equals_in_memory(source, tmp_path / "target", method="sparsegpt", sparsity=0.5)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "ria", "dsnot", "alps", "reconstruction"])
def test_every_method_that_needs_layer_inputs_only(method, tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama-tied")
    report = assert_equals_in_memory(source, tmp_path / "target", method=method, sparsity=0.6)
    assert report.prune.sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    "asked",
    [
        {"method": "wanda", "pattern": "2:4"},
        {"method": "sparsegpt", "sparsity": 0.7, "allocation": "erk", "repair": "bias"},
        {"method": "wanda", "sparsity": 0.6, "repair": "weights+block"},
        {"method": "wanda-plus-plus", "sparsity": 0.5, "ignore": ["lm_head"]},
        {"method": "sparsegpt", "sparsity": 0.5, "ignore": ["model.layers.1", "lm_head"], "damping": 0.1},
    ],
    ids=lambda asked: "-".join(map(str, asked.values())),
)
def test_patterns_allocations_repairs_and_options(asked, tmp_path) -> None:
    assert_equals_in_memory(write_folder(tmp_path / "source", "qwen2"), tmp_path / "target", **asked)


def test_a_model_with_shifted_relus(tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama")
    said = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(said | {"hidden_act": "shifted_relu", "shifted_relu": 0.01}))
    assert_equals_in_memory(source, tmp_path / "target", method="sparsegpt", sparsity=0.5)
    assert type(rarefy.load(tmp_path / "target").model.layers[0].mlp.act_fn).__name__ == "ShiftedReLU"


def test_blocks_compute_in_the_type_asked(tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama")
    seen: set[torch.dtype] = set()
    real = torch.nn.functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", lambda x, *more: (seen.add(x.dtype), real(x, *more))[1])
        rarefy.prune_folder(source, tmp_path / "half", "wanda", sparsity=0.5, data=batches(), dtype="bfloat16")
    assert seen == {torch.bfloat16}
    assert_equals_in_memory(source, tmp_path / "double", torch.float64, method="wanda", sparsity=0.5, dtype="float64")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_solved_in_float32_and_stored_as_it_was(dtype, tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama", dtype)
    report = rarefy.prune_folder(source, tmp_path / "target", "sparsegpt", sparsity=0.5, data=batches())
    got = rarefy.load(tmp_path / "target")
    assert {parameter.dtype for parameter in got.parameters()} == {dtype}
    assert report.prune.sparsity == pytest.approx(0.5, abs=0.01)
    # the first block sees the same inputs as the loaded model in float32; what it solves is rounded once
    wanted = rarefy.load(source).float()
    prune(wanted, "sparsegpt", sparsity=0.5, data=batches())
    first = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(got.state_dict()[first], wanted.state_dict()[first].to(dtype))


def test_files_keep_names_sizes_layout_and_what_is_not_pruned(tmp_path) -> None:
    source, target = write_folder(tmp_path / "source", "llama"), tmp_path / "target"
    (source / "tokenizer_config.json").write_text("{}")
    (source / "model.py").write_text("raise SystemExit")
    rarefy.prune_folder(source, target, "magnitude", sparsity=0.5, ignore=["lm_head"])
    files = {p.name: p.stat().st_size for p in source.glob("*.safetensors")}
    assert len(files) > 2
    assert {p.name: p.stat().st_size for p in target.glob("*.safetensors")} == files
    carried = {"config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer_config.json"}
    assert {p.name for p in target.iterdir()} == {*files, *carried, REPORT}
    for file in files:
        with safe_open(source / file, "pt") as before, safe_open(target / file, "pt") as after:
            assert before.keys() == after.keys()
            for name in before.keys():  # noqa: SIM118
                pruned = "_proj" in name
                assert torch.equal(before.get_tensor(name), after.get_tensor(name)) != pruned, name


def test_one_file_and_a_file_that_rarefy_wrote(tmp_path) -> None:
    model = rarefy.load(write_folder(tmp_path / "shards", "llama"))
    source = tmp_path / "source"
    rarefy.save(model, source)  # its metadata hold sums over the content, which changes
    assert_equals_in_memory(source, tmp_path / "target", method="wanda", sparsity=0.5)
    assert [p.name for p in (tmp_path / "target").glob("*.safetensors")] == ["model.safetensors"]


def test_zeros_that_are_there_stay_and_count(tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama")
    rarefy.prune_folder(source, tmp_path / "half", "magnitude", sparsity=0.5)
    report = rarefy.prune_folder(tmp_path / "half", tmp_path / "more", "wanda", sparsity=0.7, data=batches())
    assert all(site.already > 0.49 * site.size for site in report.prune.sites)
    assert report.prune.sparsity == pytest.approx(0.7, abs=0.01)


def test_the_report_is_in_the_folder_and_a_second_call_only_reads_it(tmp_path, monkeypatch) -> None:
    source, target = write_folder(tmp_path / "source", "llama"), tmp_path / "target"
    asked = {"method": "wanda", "sparsity": 0.5, "data": batches()}
    first = rarefy.prune_folder(source, target, **asked)
    said = json.loads((target / REPORT).read_text())
    assert said["report"]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert said["parameters"] == sum(p.numel() for p in rarefy.load(source).parameters())
    assert said["peak_rss"] > 50e6 and said["runs"] == 1
    before = sums(target)
    assert rarefy.prune_folder(source, target, **asked).prune.sites == first.prune.sites
    assert sums(target) == before
    with pytest.raises(FileError, match=r"finished result of another job: asked was"):
        rarefy.prune_folder(source, target, "magnitude", sparsity=0.5, data=batches())


REFUSED = {
    "snip": ({"method": "snip", "sparsity": 0.5}, EvidenceError, "GRADIENT of the whole model"),
    "joint": ({"method": "chita", "sparsity": 0.5}, EvidenceError, "chita"),
    "maskllm": ({"method": "maskllm", "pattern": "2:4"}, EvidenceError, "whole model|all layers"),
    "corrected": ({"method": "sparsegpt", "sparsity": 0.5, "corrected": True}, EvidenceError, "dense twin"),
    "gqsa": ({"method": "gqsa", "sparsity": 0.5}, (EvidenceError, SparsityError), "gqsa: (ends with|rounds to)"),
    "owl": ({"method": "wanda", "sparsity": 0.5, "allocation": "owl"}, EvidenceError, "owl.*before the first layer"),
    "lamp": ({"method": "wanda", "sparsity": 0.5, "allocation": "lamp"}, EvidenceError, "ranks the weights"),
    "search": ({"method": "wanda", "sparsity": 0.5, "allocation": "evolution"}, EvidenceError, "evolution"),
    "dtype": ({"method": "wanda", "sparsity": 0.5, "dtype": "int8"}, DTypeError, "choose one of"),
    "percent": ({"method": "wanda", "sparsity": 50}, SparsityError, "did you mean 0.5"),
    "ignore": ({"method": "wanda", "sparsity": 0.5, "ignore": ["nothing"]}, ModelError, "matches no prunable"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_written(case, tmp_path) -> None:
    asked, error, says = REFUSED[case]
    source = write_folder(tmp_path / "source", "llama")
    with pytest.raises(error, match=says):
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), **asked)
    assert not (tmp_path / "target").exists()


def test_folders_that_would_be_overwritten_are_refused(tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama")
    before = sums(source)
    for target in (source, source / "inside", tmp_path):
        with pytest.raises(FileError, match="one lies in the other"):
            rarefy.prune_folder(source, target, "magnitude", sparsity=0.5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(FileError, match="not empty"):
        rarefy.prune_folder(source, tmp_path / "full", "magnitude", sparsity=0.5)
    assert sums(source) == before and (tmp_path / "full" / "thesis.txt").read_text() == "mine"


def test_sources_that_are_quantised_sparse_damaged_or_of_another_model_are_refused(tmp_path) -> None:
    source = write_folder(tmp_path / "source", "llama", shard="1GB")
    config, weights = json.loads((source / "config.json").read_text()), source / "model.safetensors"
    whole, state = weights.read_bytes(), safetensors.torch.load_file(weights)

    def refused(says: str) -> None:
        with pytest.raises(FileError, match=says):
            rarefy.prune_folder(source, tmp_path / "target", "magnitude", sparsity=0.5)

    (source / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    refused("stored as fp8")
    (source / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    refused("has shape .* but config.json asks for")
    (source / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    refused("holds no tensor for parameter 'model.layers.3")
    (source / "config.json").write_text(json.dumps(config))
    weights.write_bytes(whole[:-100])
    refused("not a whole safetensors file")
    name = "model.layers.0.mlp.up_proj.weight"
    safetensors.torch.save_file(state | {name: state[name].to(torch.float8_e4m3fn)}, weights)
    refused("F8_E4M3; convert it")
    model = rarefy.load(write_folder(tmp_path / "dense", "llama"))
    prune(model, "magnitude", sparsity=0.9)
    rarefy.save(model, tmp_path / "sparse")
    with pytest.raises(FileError, match="stored as compressed-tensors"):
        rarefy.prune_folder(tmp_path / "sparse", tmp_path / "target", "magnitude", sparsity=0.95)
    assert not (tmp_path / "target").exists()


def test_a_model_without_a_chain_of_blocks_is_refused(tmp_path) -> None:
    import transformers

    config = transformers.AlbertConfig(
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=64,
        embedding_size=8,
    )
    transformers.AlbertModel(config).save_pretrained(tmp_path / "source")  # one layer, three times
    with pytest.raises(ModelError, match="do not form a chain"):
        rarefy.prune_folder(tmp_path / "source", tmp_path / "target", "wanda", sparsity=0.5, data=batches())
    report = rarefy.prune_folder(tmp_path / "source", tmp_path / "plain", "magnitude", sparsity=0.5)
    assert report.prune.sparsity == pytest.approx(0.5, abs=0.01)
    assert not (tmp_path / "plain" / WORK).exists()
