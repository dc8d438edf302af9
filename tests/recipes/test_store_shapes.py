"""Hugging Face models that were cut to widths which no config says: they come back, and nothing else is trusted."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import rarefy
from rarefy.core.errors import FileError
from rarefy.formats import read
from rarefy.formats.container import Widths, prepare
from rarefy.formats.folder import read_contents
from rarefy.recipes.convert import convert
from rarefy.recipes.store import load, save
from rarefy.recipes.store_widths import widths_of

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def cut(module: nn.Module, keep: Tensor, axis: int) -> None:
    """Keeps some outputs (axis 0) or inputs (axis 1) of a layer, as pruning of whole units does."""
    turned = type(module).__name__ == "Conv1D"
    module.weight = nn.Parameter(module.weight.detach().index_select(1 - axis if turned else axis, keep).contiguous())
    if axis == 0 and getattr(module, "bias", None) is not None:
        module.bias = nn.Parameter(module.bias.detach()[keep])
    if turned:
        module.nx, module.nf = module.weight.shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.out_channels, module.in_channels = module.weight.shape[:2]


def all_but(total: int, *gone: int) -> Tensor:
    return torch.tensor([i for i in range(total) if i not in gone])


def heads(kept: tuple[int, ...], size: int) -> Tensor:
    return torch.cat([torch.arange(h * size, (h + 1) * size) for h in kept])


def bert(cls: type = BertModel) -> nn.Module:
    """One feed-forward layer of 61 of 64 neurons; one of four heads gone from the other layer."""
    model = cls(BertConfig(**SMALL, vocab_size=100))
    layers = getattr(model, "bert", model).encoder.layer
    cut(layers[0].intermediate.dense, all_but(64, 3, 17, 40), 0)
    cut(layers[0].output.dense, all_but(64, 3, 17, 40), 1)
    attention, keep = layers[1].attention, heads((0, 1, 3), 8)
    for part in (attention.self.query, attention.self.key, attention.self.value):
        cut(part, keep, 0)
    cut(attention.output.dense, keep, 1)
    attention.self.num_attention_heads, attention.self.all_head_size = 3, 24
    return model.eval()


def llama(**more: Any) -> nn.Module:
    """Another intermediate size in each layer; one of two groups of heads gone from the second."""
    model = LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=100, **more))
    for layer, width in zip(model.model.layers, (61, 37), strict=True):
        keep = torch.arange(width)
        for part, axis in ((layer.mlp.gate_proj, 0), (layer.mlp.up_proj, 0), (layer.mlp.down_proj, 1)):
            cut(part, keep, axis)
        layer.mlp.intermediate_size = width
    attention = model.model.layers[1].self_attn
    cut(attention.q_proj, heads((2, 3), 8), 0)
    cut(attention.k_proj, heads((1,), 8), 0)
    cut(attention.v_proj, heads((1,), 8), 0)
    cut(attention.o_proj, heads((2, 3), 8), 1)
    return model.eval()


def llama_without_groups() -> nn.Module:
    """Each group of two heads lost one: what is left counts its groups otherwise."""
    model = llama(tie_word_embeddings=True)
    attention = model.model.layers[0].self_attn
    cut(attention.q_proj, heads((0, 3), 8), 0)
    cut(attention.o_proj, heads((0, 3), 8), 1)
    attention.num_key_value_groups = 1
    return model


def gpt2() -> nn.Module:
    """Heads of one layer and neurons of the other, in layers whose weights are (in, out)."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, n_positions=64))
    attention, keep = model.transformer.h[0].attn, heads((1, 2), 8)
    cut(attention.c_attn, torch.cat([keep + 32 * part for part in range(3)]), 0)
    cut(attention.c_proj, keep, 1)
    attention.num_heads, attention.split_size = 2, 16
    cut(model.transformer.h[1].mlp.c_fc, torch.arange(99), 0)
    cut(model.transformer.h[1].mlp.c_proj, torch.arange(99), 1)
    return model.eval()


def vit() -> nn.Module:
    model = ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8))
    wide = [m for m in model.modules() if isinstance(m, nn.Linear) and 64 in m.weight.shape][:2]
    cut(wide[0], torch.arange(61), 0)
    cut(wide[1], torch.arange(61), 1)
    return model.eval()


def resnet() -> nn.Module:
    """One channel fewer inside a block, and in the normalisation that follows it."""
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    model = ResNetForImageClassification(config)
    first, second = model.resnet.encoder.stages[1].layers[0].layer
    keep, norm = all_but(16, 5), first.normalization
    cut(first.convolution, keep, 0)
    cut(second.convolution, keep, 1)
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[keep]))
    norm.running_mean, norm.running_var = torch.rand(15), torch.rand(15) + 0.5
    norm.num_features = 15
    return model.eval()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "bert": bert,
    "bert with a tied head": lambda: bert(BertForMaskedLM),
    "llama": llama,
    "llama, tied, heads of a group": llama_without_groups,
    "gpt2": gpt2,
    "vit": vit,
    "resnet": resnet,
}


def batch_of(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(1)
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 32, 32)}
    return {"input_ids": torch.randint(0, 100, (2, 9))}


def zeros_(model: nn.Module) -> nn.Module:
    """So that tensors are stored sparse as well."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(torch.rand(parameter.shape) < 0.3)
    return model


def numbers(model: nn.Module) -> dict[str, int]:
    """Every plain integer of every module."""
    found = ((name, vars(module).items()) for name, module in model.named_modules())
    return {f"{name}.{key}": value for name, held in found for key, value in held if type(value) is int}


def require_same(model: nn.Module, back: nn.Module) -> None:
    assert type(back) is type(model)
    state = back.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert numbers(back) == numbers(model)
    with torch.inference_mode():
        batch = batch_of(model)
        assert torch.equal(model(**batch)[0], back(**batch)[0])


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_odd_widths_comes_back(tmp_path, name, sparse) -> None:
    torch.manual_seed(0)
    model = zeros_(MODELS[name]()) if sparse else MODELS[name]()
    state = torch.random.get_rng_state()
    save(model, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    back = load(tmp_path)
    require_same(model, back)
    assert repr(back) == repr(model)


def test_it_can_be_saved_again_pruned_and_compiled(tmp_path) -> None:
    save(bert(), tmp_path / "a")
    model = load(tmp_path / "a")
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    batch = batch_of(model)
    fast = rarefy.compile(model, [batch], measure=False)
    save(fast, tmp_path / "b")
    require_same(model, load(tmp_path / "b", compiled=False))
    with torch.inference_mode():
        assert torch.allclose(load(tmp_path / "b")(**batch)[0], model(**batch)[0], atol=1e-5)


def test_a_decoder_of_odd_widths_generates(tmp_path) -> None:
    model = llama()
    save(model, tmp_path)
    ids = torch.arange(6)[None]
    given = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert torch.equal(load(tmp_path).generate(ids, **given), model.generate(ids, **given))


def test_a_cut_vocabulary_stays_tied(tmp_path) -> None:
    model = BertForMaskedLM(BertConfig(**SMALL, vocab_size=120)).eval()
    table = nn.Parameter(model.bert.embeddings.word_embeddings.weight.detach()[:100].clone())
    for part in (model.bert.embeddings.word_embeddings, model.cls.predictions.decoder):
        part.weight = table
    bias = nn.Parameter(torch.randn(100))
    model.cls.predictions.bias = model.cls.predictions.decoder.bias = bias
    model.bert.embeddings.word_embeddings.num_embeddings = model.cls.predictions.decoder.out_features = 100
    save(model, tmp_path)
    back = load(tmp_path)
    require_same(model, back)
    assert back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight


def test_what_has_the_widths_of_its_config_is_written_as_before(tmp_path) -> None:
    model = BertModel(BertConfig(**SMALL, vocab_size=100)).eval()
    assert widths_of(model) == Widths()
    save(model, tmp_path)
    assert said_of(tmp_path / "model.safetensors").keys() == {"aliases", "digests", "sparse"}
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    require_same(model, load(tmp_path))


def test_a_changed_scale_is_not_lost_silently(tmp_path) -> None:
    model = bert()
    model.encoder.layer[1].attention.self.scaling = 0.5
    if "scaling" not in vars(BertModel(model.config).encoder.layer[1].attention.self):
        pytest.skip("this version of transformers keeps no scale there")
    save(model, tmp_path)
    with pytest.raises(FileError, match=r"build the model|belong together"):
        load(tmp_path)
    assert torch.equal(load(tmp_path, model=bert()).pooler.dense.weight, model.pooler.dense.weight)


def test_a_single_file_says_nothing_of_a_config(tmp_path) -> None:
    model = bert()
    save(model, tmp_path / "m.safetensors")
    assert read_contents(tmp_path / "m.safetensors").widths == Widths()
    assert torch.equal(load(tmp_path / "m.safetensors", model=bert()).pooler.dense.weight, model.pooler.dense.weight)


# --- other programs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [False, True])
def test_transformers_reads_it_once_it_is_enabled(tmp_path, sparse, transformers_tables) -> None:
    pytest.importorskip("transformers", "5.0")
    model = zeros_(bert(BertForMaskedLM)) if sparse else bert(BertForMaskedLM)
    save(model, tmp_path / "own")
    with pytest.raises(ImportError, match="compressed-tensors"):
        AutoModel.from_pretrained(tmp_path / "own")
    rarefy.enable_transformers()
    require_same(model, BertForMaskedLM.from_pretrained(tmp_path / "own").eval())
    base = AutoModel.from_pretrained(tmp_path / "own", add_pooling_layer=False).eval()
    require_same(model.bert, base)
    save(base, tmp_path / "base")
    head = BertForMaskedLM.from_pretrained(tmp_path / "base").eval()
    require_same(base, head.bert)


def test_the_counts_of_a_whole_model_go_with_its_class(tmp_path, transformers_tables) -> None:
    """A vocabulary that was cut is counted by the model, by its base, and not by a model that is only the base."""
    pytest.importorskip("transformers", "5.0")
    model = llama(tie_word_embeddings=True)
    model.model.embed_tokens.weight = model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach()[:90].clone())
    model.lm_head.out_features = model.model.embed_tokens.num_embeddings = model.vocab_size = model.model.vocab_size = (
        90
    )
    assert widths_of(model).counts.keys() >= {"", "model"}
    save(model, tmp_path)
    rarefy.enable_transformers()
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        for back in (load(tmp_path), LlamaForCausalLM.from_pretrained(tmp_path)):
            assert numbers(back) == numbers(model)
            assert torch.equal(back(ids)[0], model(ids)[0])
        base = AutoModel.from_pretrained(tmp_path)
        assert numbers(base) == numbers(model.model)
        assert torch.equal(base(ids)[0], model.model(ids)[0])


@pytest.mark.parametrize("to", ["hf", "bitmask", "bitmask-24"])
def test_what_others_could_not_build_is_not_written_for_them(tmp_path, to) -> None:
    save(zeros_(bert()), tmp_path / "own")
    with pytest.raises(FileError, match=r"widths that config\.json does not say.*rarefy\.load"):
        convert(tmp_path / "own", tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_gguf_is_refused_too(tmp_path) -> None:
    pytest.importorskip("gguf")
    save(llama(), tmp_path / "own")
    with pytest.raises(FileError, match="widths"):
        convert(tmp_path / "own", tmp_path / "out", "gguf-dense")


@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("made", [bert, llama], ids=["encoder", "decoder"])
def test_graphs_need_no_config_and_compute_the_same(tmp_path, made, to) -> None:
    for package in ("onnxscript", "onnxruntime") if to == "onnx" else ("openvino",):
        pytest.importorskip(package)
    model = made()
    save(model, tmp_path / "own")
    found = convert(tmp_path / "own", tmp_path / "out", to)
    ids = torch.randint(0, 50, (3, 11))
    inputs = {"input_ids": ids.numpy(), "attention_mask": torch.ones_like(ids).numpy()}
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
        output = session.run(None, inputs)[0]
    else:
        import openvino

        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        output = openvino.Core().compile_model(str(tmp_path / "out" / "openvino_model.xml"), "CPU", exact)(inputs)[0]
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
    assert torch.allclose(torch.from_numpy(output), expected, atol=1e-4), found.notes


# --- hostile files ------------------------------------------------------------------------------------------------


def said_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        found: dict[str, Any] = json.loads(file.metadata()["rarefy.manifest"])
    return found


def lie(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the manifest and signs it again, as a careful attacker would."""
    path = folder / "model.safetensors"
    said = said_of(path)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    change(said)
    text = json.dumps(said)
    signed = hashlib.sha256(text.encode()).hexdigest()
    save_file(tensors, path, {"rarefy.layout": "1", "rarefy.manifest": text, "rarefy.digest": signed})


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(bert(), folder)
    return folder


ODD = "encoder.layer.0.intermediate.dense"
SELF = "encoder.layer.1.attention.self"
LIES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another shape than the tensor": (lambda m: m["resized"].update({f"{ODD}.weight": [60, 32]}), "contradicts"),
    "another rank": (lambda m: m["resized"].update({f"{ODD}.weight": [61, 32, 1]}), "contradicts"),
    "a huge shape": (lambda m: m["resized"].update({f"{ODD}.weight": [2**31, 2**31]}), "contradicts"),
    "a shape of no tensor": (lambda m: m["resized"].update({"encoder.other.weight": [2**40]}), "contradicts"),
    "a negative shape": (lambda m: m["resized"].update({f"{ODD}.weight": [-61, 32]}), "cannot be read"),
    "a shape beyond integers": (lambda m: m["resized"].update({f"{ODD}.bias": [2**70]}), "cannot be read"),
    "a fraction": (lambda m: m["resized"].update({f"{ODD}.bias": [61.0]}), "cannot be read"),
    "a truth": (lambda m: m["resized"].update({f"{ODD}.bias": [True]}), "cannot be read"),
    "a shape that is a number": (lambda m: m["resized"].update({f"{ODD}.bias": 61}), "cannot be read"),
    "shapes in a list": (lambda m: m.update(resized=[]), "cannot be read"),
    "a shape left out": (lambda m: m["resized"].pop(f"{ODD}.weight"), "build the model|belong together"),
    "all shapes left out": (lambda m: m.update(resized={}), "resized|build the model|belong together"),
    "counts in a list": (lambda m: m.update(counts=[]), "cannot be read"),
    "a count that is no mapping": (lambda m: m["counts"].update({SELF: 3}), "cannot be read"),
    "a count that is text": (lambda m: m["counts"].update({SELF: {"num_attention_heads": "3"}}), "cannot be read"),
    "a negative count": (lambda m: m["counts"].update({SELF: {"num_attention_heads": -3}}), "cannot be read"),
    "a count far too large": (lambda m: m["counts"].update({SELF: {"num_attention_heads": 10**9}}), "at most 32"),
    "an attribute not in the list": (lambda m: m["counts"].update({SELF: {"layer_idx": 0}}), "no count"),
    "a method": (lambda m: m["counts"].update({SELF: {"forward": 1}}), "no count"),
    "a private attribute": (lambda m: m["counts"].update({SELF: {"__class__": 1}}), "no count"),
    "an attribute it does not have": (lambda m: m["counts"].update({SELF: {"split_size": 8}}), "no count"),
    "a module that is not there": (lambda m: m["counts"].update({"encoder.layer.7": {"num_heads": 1}}), "not have"),
    "a parameter for a module": (lambda m: m["counts"].update({f"{ODD}.weight": {"dim": 1}}), "not have"),
    "a module that is whole": (
        lambda m: m["counts"].update({"encoder.layer.0.attention.self": {"num_attention_heads": 2}}),
        "nothing is resized",
    ),
    "far too many": (lambda m: m["counts"].update({str(i): {"dim": 1} for i in range(10**4)}), "names far more"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_manifest_that_lies_is_refused(saved, tmp_path, what) -> None:
    change, said = LIES[what]
    shutil.copytree(saved, tmp_path / "m")
    lie(tmp_path / "m", lambda m: None)
    load(tmp_path / "m")
    lie(tmp_path / "m", change)
    with pytest.raises(FileError, match=said):
        load(tmp_path / "m")


def test_a_tensor_of_another_rank_than_the_module_has_is_refused(tmp_path) -> None:
    model = bert()
    save(model, tmp_path)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors["embeddings.LayerNorm.weight"] = torch.ones(4, 8)
    widths = widths_of(model)
    widths = Widths({**widths.resized, "embeddings.LayerNorm.weight": [4, 8]}, widths.counts)
    prepared = prepare(tensors, {}, None, widths)
    save_file(dict(prepared.parts), tmp_path / "model.safetensors", dict(prepared.metadata))
    with pytest.raises(FileError, match=r"shape \(4, 8\), the model .* one of \(32,\)"):
        load(tmp_path)


def test_widths_need_no_config_to_be_read(saved) -> None:
    """`read` gives the tensors as they are."""
    assert tuple(read(saved)[f"{ODD}.weight"].shape) == (61, 32)


def test_another_config_is_refused(saved, tmp_path) -> None:
    shutil.copytree(saved, tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    for change in ({"intermediate_size": 128}, {"num_hidden_layers": 1}, {"intermediate_size": 10**13}):
        path.write_text(json.dumps(json.loads((saved / "config.json").read_text()) | change))
        with pytest.raises(FileError):
            load(tmp_path / "m")
