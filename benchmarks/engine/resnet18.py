"""ResNet-18 at 224x224, 95 % zeros in every convolution but the first, beside every engine that can run it."""

import convnet
import torch
from torch import nn

SPARSITY = 0.95


def resnet18(sparsity: float, block: int = 1) -> nn.Module:
    """transformers' ResNet-18 with random weights; block: neighbouring input channels that are zero together."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    sizes = [64, 128, 256, 512]
    config = ResNetConfig(embedding_size=64, hidden_sizes=sizes, depths=[2, 2, 2, 2], layer_type="basic")
    model: nn.Module = ResNetForImageClassification(config).eval()
    for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)][1:]:
        convnet.thin_out(conv, sparsity, block)
    return model


if __name__ == "__main__":
    convnet.main(lambda block: resnet18(SPARSITY, block), "resnet18", "ResNet-18, 224x224, 95 % zeros", __doc__)
