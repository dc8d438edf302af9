"""Small Hugging Face folders of random weights, and what is done with them again and again."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")

_SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 64}
_LLAMA = {**_SMALL, "intermediate_size": 48, "num_key_value_heads": 1}
KINDS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "tie_word_embeddings": False}),
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", {**_LLAMA, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _LLAMA),
    "opt": (
        *("OPTForCausalLM", "OPTConfig"),
        {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    ),
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config"),
        {"n_layer": 3, "n_embd": 32, "n_head": 2, "vocab_size": 64, "n_positions": 32, "bos_token_id": 1},
    ),
    "bert": ("BertModel", "BertConfig", {**_SMALL, "intermediate_size": 48}),
}


def write_folder(folder: Path, kind: str, dtype: torch.dtype = torch.float32, shard: str = "20KB") -> Path:
    """A folder of shards, as transformers writes it."""
    cls, config, fields = KINDS[kind]
    torch.manual_seed(0)
    model = getattr(transformers, cls)(getattr(transformers, config)(**fields))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


def batches(rows: int = 3, tokens: int = 20) -> list[Any]:
    """Token ids with a mask; the last row of each batch is padded."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(rows):
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[1, tokens - 4 :] = 0
        found.append({"input_ids": torch.randint(0, 64, (2, tokens), generator=generator), "attention_mask": mask})
    return found


def sums(folder: Path) -> dict[str, str]:
    """{file: sha256} of the weight files."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.glob("*.safetensors"))}
