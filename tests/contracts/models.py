"""Small models of the kinds that have to work, with data for each."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A model and batches that it takes."""

    model: nn.Module
    batches: list[Any]


def perceptron() -> Case:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    return Case(model, [torch.randn(24, 16) for _ in range(2)])


class ConvNet(nn.Module):
    """Plain, grouped (depthwise) and strided convolutions, then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 2, stride=2, groups=2)
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(torch.relu(self.depthwise(torch.relu(self.stem(x)))))
        return self.head(x.mean(dim=(2, 3)))


def convnet() -> Case:
    torch.manual_seed(2)
    return Case(ConvNet(), [torch.randn(3, 4, 8, 8) for _ in range(2)])


@cache
def _bert_class() -> tuple[Any, Any]:
    from transformers import BertConfig, BertModel

    return BertConfig, BertModel


def bert(layers: int = 2) -> Case:
    """An encoder with random weights; the batches are padded, with an attention mask."""
    config_class, model_class = _bert_class()
    torch.manual_seed(3)
    config = config_class(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    return Case(model_class(config).eval(), [padded_tokens(seed) for seed in range(2)])


def padded_tokens(seed: int, rows: int = 4, length: int = 12, vocabulary: int = 50) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, vocabulary, (rows, length), generator=generator)
    lengths = torch.tensor([length, length - 3, length // 2, 2])[:rows]
    mask = (torch.arange(length)[None] < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


CASES: dict[str, Callable[[], Case]] = {"perceptron": perceptron, "convnet": convnet, "bert": bert}
