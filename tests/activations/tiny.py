"""Small transformers and a task of bytes for the tests of trained activation sparsity."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HIDDEN = 32, 64


def llama(activation: str = "silu", layers: int = 2, seed: int = 0, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = {
        "vocab_size": 32,
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "hidden_act": activation,
        "attn_implementation": "eager",
    }
    model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(config | more)))
    return model


def opt(layers: int = 2, seed: int = 0) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.OPTConfig(
        vocab_size=32,
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
        dropout=0.0,
        attn_implementation="eager",
    )
    model: nn.Module = transformers.OPTForCausalLM(config)
    return model


def text(rows: int = 8, length: int = 24, seed: int = 0) -> Tensor:
    """Rows of counting with noise: the next symbol is the last plus one, most of the time. (rows, length)"""
    generator = torch.Generator().manual_seed(seed)
    begin = torch.randint(0, 32, (rows, 1), generator=generator)
    ids = (begin + torch.arange(length)) % 32
    noise = torch.rand(rows, length, generator=generator) < 0.1
    return torch.where(noise, torch.randint(0, 32, (rows, length), generator=generator), ids)


def next_loss(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(input_ids=ids).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def train(model: nn.Module, steps: int, *, penalty: Any = None, rate: float = 3e-3, seed: int = 0) -> float:
    """Adam on the task; gives the loss on text that was not trained on."""
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    for step in range(steps):
        loss = next_loss(model, text(seed=seed * 1000 + step + 1))
        if penalty is not None:
            loss = loss + penalty.loss()
            penalty.step()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return float(next_loss(model, text(32, seed=0)))
