"""Small language models of every class that the runtime knows, pruned to half."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rarefy

transformers = pytest.importorskip("transformers")

VOCABULARY, POSITIONS = 97, 96
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6}
ROTARY = {**SMALL, "intermediate_size": 80, "max_position_embeddings": POSITIONS}


def rope(kind: str, **settings: Any) -> dict[str, Any]:
    """Rotary positions of a kind, as a configuration of this version of the library takes them."""
    settings = {"rope_type": kind, **settings}
    if hasattr(transformers.LlamaConfig(), "rope_parameters"):
        return {"rope_parameters": {**settings, "rope_theta": 1e4}}
    return {"rope_scaling": settings, "rope_theta": 1e4}


def _llama(**more: Any) -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**ROTARY, "num_key_value_heads": 2, **more}))


def _mistral(window: int | None = None) -> nn.Module:
    config = transformers.MistralConfig(**ROTARY, num_key_value_heads=3, sliding_window=window)
    return transformers.MistralForCausalLM(config)


def _windowed_mistral() -> nn.Module:
    return _mistral(window=7)


def _half_windowed_qwen2() -> nn.Module:
    """Its first layer sees all of a text, the others six tokens."""
    windows = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
    config = transformers.Qwen2Config(**ROTARY, num_key_value_heads=2, **windows)
    if getattr(config, "layer_types", None) is None:
        pytest.skip(f"transformers {transformers.__version__} does not say which layers have a window")
    return transformers.Qwen2ForCausalLM(config)


def _qwen2() -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**ROTARY, num_key_value_heads=6))


def _qwen3() -> nn.Module:
    if not hasattr(transformers, "Qwen3Config"):
        pytest.skip(f"transformers {transformers.__version__} has no Qwen 3, which came with 4.51")
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**ROTARY, num_key_value_heads=2, head_dim=20))


def _opt(embedding: int = 48, **more: Any) -> nn.Module:
    config = {**SMALL, "ffn_dim": 80, "word_embed_proj_dim": embedding, "max_position_embeddings": POSITIONS, **more}
    return transformers.OPTForCausalLM(transformers.OPTConfig(**config))


def _opt_350m() -> nn.Module:
    return _opt(embedding=32, do_layer_norm_before=False)


def _projected_opt() -> nn.Module:
    return _opt(embedding=32)


def _gpt2() -> nn.Module:
    config = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": POSITIONS}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))


def _llama3_rope() -> nn.Module:
    settings = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    return _llama(**rope("llama3", **settings), attention_bias=True, mlp_bias=True)


def _linear_rope() -> nn.Module:
    return _llama(**rope("linear", factor=2.0), tie_word_embeddings=True)


CLASSES: dict[str, Callable[[], nn.Module]] = {
    "llama": _llama,
    "llama3-rope": _llama3_rope,
    "linear-rope": _linear_rope,
    "mistral": _mistral,
    "mistral-window": _windowed_mistral,
    "qwen2": _qwen2,
    "qwen2-windows": _half_windowed_qwen2,
    "qwen3": _qwen3,
    "opt": _opt,
    "opt-350m": _opt_350m,
    "opt-projected": _projected_opt,
    "gpt2": _gpt2,
}


def build(name: str, sparsity: float = 0.5) -> Any:
    """A model whose weights, norms and biases are all random, so that every part of it counts."""
    torch.manual_seed(0)
    model = CLASSES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = None
    if sparsity:
        rarefy.prune(model, "magnitude", sparsity=sparsity, measure=False)
    return model


def compiled(model: Any, **options: Any) -> Any:
    return rarefy.compile(model, {"input_ids": tokens(1, 9)}, measure=False, **options)


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))
