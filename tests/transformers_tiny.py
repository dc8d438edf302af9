"""Tiny transformers with random weights of every class that the selectors know."""

from typing import Any

import pytest
import torch
from torch import nn

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
PARTS = {
    "Llama": "q k v o gate up down",
    "Qwen2": "q k v o gate up down",
    "Qwen3": "q k v o gate up down",
    "Mistral": "q k v o gate up down",
    "OPT": "q k v o in down",
    "GPT2": "qkv o in down",
    "Bert": "q k v o in down",
    "Roberta": "q k v o in down",
}


def tiny(kind: str, seed: int = 0, **more: Any) -> nn.Module:
    """A model of a class of transformers, two blocks, in evaluation mode."""
    import transformers

    sizes: dict[str, Any] = dict(SIZES) | NO_TOKENS
    if kind in ("Llama", "Qwen2", "Qwen3", "Mistral"):
        sizes["num_key_value_heads"] = 2
    if kind == "OPT":
        sizes |= {"ffn_dim": 64, "word_embed_proj_dim": 32}
    if kind == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50} | NO_TOKENS
    head = {"OPT": "ForCausalLM", "GPT2": "LMHeadModel", "Bert": "Model", "Roberta": "Model"}.get(kind, "ForCausalLM")
    sizes |= {"pad_token_id": 1} if kind == "Roberta" else {}
    if not hasattr(transformers, kind + head):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}{head}")
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, kind + head)(getattr(transformers, f"{kind}Config")(**(sizes | more)))
    return model.eval()


def ids(rows: int = 2, tokens: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 50, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def output(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=tokens)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state
