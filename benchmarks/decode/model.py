"""The Llama-shaped model of the decode benchmark: random weights with exact zeros, 298 M parameters."""

import re
from typing import Any

import torch
from torch import Tensor, nn

SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "max_position_embeddings": 2048,
}


def llama(sparsity: float, head_sparsity: float = 0.0, seed: int = 0, **changes: Any) -> nn.Module:
    """A LlamaForCausalLM whose block weights are zero with probability `sparsity`, the head's with its own.

    All blocks hold the same parameters, so that the model is made in seconds. What is packed is packed a block: each
    has memory of its own, and a token reads as many bytes as it does of a model with different blocks.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**{**SHAPE, **changes}, tie_word_embeddings=False)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, nn.Parameter] = {}
    for name, parameter in list(model.named_parameters()):
        kind = re.sub(r"layers\.\d+", "layers", name)
        if kind not in made:
            zeros = head_sparsity if "lm_head" in name else 0.0 if "embed" in name else sparsity
            value = torch.ones(parameter.shape) if parameter.dim() == 1 else _random(parameter.shape, zeros, generator)
            made[kind] = nn.Parameter(value, requires_grad=False)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, made[kind])
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def _random(shape: torch.Size, zeros: float, generator: torch.Generator) -> Tensor:
    """Uniform with a standard deviation of 0.02, zero with probability `zeros` (in steps of 1/256)."""
    value = torch.empty(shape).uniform_(-0.035, 0.035, generator=generator)
    if zeros:
        value *= torch.empty(shape, dtype=torch.uint8).random_(0, 256, generator=generator) >= round(256 * zeros)
    return value
