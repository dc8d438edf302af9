"""Weights that something besides the trained layers reads stay dense, and train."""

import pytest
import torch
from torch import Tensor, nn

import rarefy


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle, self.head = nn.Embedding(40, 16), nn.Linear(16, 16), nn.Linear(16, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.head(self.middle(self.embed(ids)).relu())
        return out


@pytest.mark.parametrize("runtime", ["sparse", "auto", "dense"])
def test_a_head_tied_to_the_embedding(runtime: str) -> None:
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters())
    trainer = rarefy.sparse_training(model, optimizer, "rigl", sparsity=0.8, total_steps=20, every=3, runtime=runtime)
    ids = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(1))
    for _ in range(7):
        nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
        trainer.step()
        optimizer.zero_grad()
    if runtime == "sparse":
        assert trainer.runtime == {"middle": "sparse", "head": "dense: several layers share it"}
    assert model.head.weight is model.embed.weight
    assert trainer.sparsity == pytest.approx(0.8, abs=5e-3)
