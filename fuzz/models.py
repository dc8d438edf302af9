"""Good folders of Hugging Face models, in each layout, made once a process: what `folders` makes hostile ones from."""

import json
from functools import cache
from typing import Any

import torch
from corpus import Files, folder
from torch import nn

import rarefy
from rarefy.recipes.convert import convert

_TINY = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "added_tokens": [
        {"id": 2, "content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
    ],
    "normalizer": {"type": "Lowercase"},
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}},
    "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "truncation": None,
    "padding": None,
    "model": {"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False,
              "continuing_subword_prefix": None, "end_of_word_suffix": None,
              "vocab": {"a": 0, "b": 1, "[PAD]": 2, "c": 3, "ab": 4, "abc": 5}, "merges": [["a", "b"], ["ab", "c"]]},
}  # fmt: skip
"""A tokenizer.json of six tokens."""


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(hidden_size=16, intermediate_size=32, **_TINY, **_SPECIAL)
    return BertForMaskedLM(config).eval()


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_key_value_heads": 1, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **_TINY, **_SPECIAL)).eval()


def _sparse(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                order = torch.rand(parameter.shape[0], parameter.shape[1] // 4, 4).argsort(-1)
                parameter[(order > 1).reshape(parameter.shape)] = 0
    return model


def _narrow(model: Any) -> nn.Module:
    """Three neurons fewer than the config says."""
    layer = model.bert.encoder.layer[0]
    up, down = layer.intermediate.dense, layer.output.dense
    up.weight, up.bias = nn.Parameter(up.weight.detach()[:29].clone()), nn.Parameter(up.bias.detach()[:29].clone())
    down.weight = nn.Parameter(down.weight.detach()[:, :29].clone())
    up.out_features = down.in_features = 29
    return model


@cache
def folders() -> dict[str, Files]:
    """{what: the files of a folder}"""
    place = folder()
    for name, model in (("bert", _sparse(_bert())), ("llama", _sparse(_llama())), ("narrow", _narrow(_bert()))):
        rarefy.save(model, place / name)
    for name in ("bert", "llama"):
        for to in ("hf", "bitmask", "bitmask-24"):
            convert(place / name, place / f"{name} {to}", to)
    convert(place / "llama", place / "llama in shards", "bitmask", _small_shards())
    found = {path.name: {file.name: file.read_bytes() for file in path.iterdir()} for path in place.iterdir()}
    for name, files in found.items():
        if name.startswith("llama"):
            files["tokenizer.json"] = json.dumps(TOKENIZER).encode()
    old = dict(found["bert bitmask"])
    config = json.loads(old["config.json"])
    config["compression_config"] = config.pop("quantization_config")
    return found | {"bert older key": old | {"config.json": json.dumps(config).encode()}}


def _small_shards() -> Any:
    from rarefy.recipes.convert import Options

    return Options(shard_bytes=4000)
