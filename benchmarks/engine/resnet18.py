"""ResNet-18 at 224x224, 95 % zeros in every convolution but the first, beside every engine that can run it.

Random weights serve for speed.
"""

import tempfile
from functools import partial
from pathlib import Path

import deepsparse
import torch
from harness import Sides, Target, options, report, show, table, timed
from mlp import DENSE, rival
from torch import Tensor, nn

import rarefy

SPARSITY, BATCHES = 0.95, (1, 16)
OURS, THEIRS = "rarefy", "deepsparse"


class Logits(nn.Module):
    """One tensor in and one out: what the older exporter takes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.model(pixel_values=pixels).logits
        return out


def resnet18(sparsity: float) -> nn.Module:
    """transformers' ResNet-18; kept weights are scaled up, so that values keep their size from layer to layer."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = [64, 128, 256, 512]
    config = ResNetConfig(embedding_size=64, hidden_sizes=sizes, depths=[2, 2, 2, 2], layer_type="basic")
    model: nn.Module = ResNetForImageClassification(config).eval()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs[1:]:
        with torch.no_grad():
            conv.weight.mul_(torch.rand_like(conv.weight) >= sparsity).mul_((1 - sparsity) ** -0.5)
    return model


def main() -> None:
    asked = options(__doc__)
    model = resnet18(SPARSITY)
    rows, targets, missing, charts = [], [], {}, {}
    for batch in BATCHES:
        x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        given, sides = {"pixel_values": x}, Sides()
        with tempfile.TemporaryDirectory() as scratch:
            sides.here("torch", lambda given=given: partial(model, **given))
            for name in DENSE[1:]:
                sides.here(name, lambda name=name, given=given: rival(name, model, given))
            fast = rarefy.compile(model, given)
            sides.here(OURS, lambda fast=fast, given=given: partial(fast, **given))
            deepsparse.add(sides, THEIRS, Logits(model).eval(), [x], Path(scratch))
            show(f"batch {batch}: {list(sides.turns)}")
            got = timed(sides, 3 if asked.quick else 9, 0.1 if asked.quick else 0.4)
            sides.close()
        missing |= sides.missing
        charts[f"batch {batch}"] = got
        best, there = got.best(DENSE), THEIRS in got.rounds
        rows += [[batch, name, got.ms(name), got.ratio(OURS, name)] for name in got.rounds]
        targets.append(Target(f"batch {batch}, times the best dense engine ({best})", 2.0, got.ratio(OURS, best)))
        targets.append(
            Target(f"batch {batch}, times DeepSparse 1.8.0", 1.0, got.ratio(OURS, THEIRS) if there else None)
        )
    body = table(["batch", "", "ms", "rarefy is faster by"], rows)
    report("resnet18", "ResNet-18, 224x224, float32, 95 % zeros", body, targets, missing, asked, charts)


if __name__ == "__main__":
    main()
