"""MobileNetV2 at 224x224, 90 % zeros in every 1x1 convolution of its blocks, beside every engine that can run it."""

import convnet
import torch
from torch import nn

SPARSITY = 0.9


def mobilenet(sparsity: float, block: int = 1) -> nn.Module:
    """transformers' MobileNetV2 of width 1 with random weights, padded alike on all sides; block: neighbouring input
    channels that are zero together."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    model: nn.Module = MobileNetV2ForImageClassification(MobileNetV2Config(tf_padding=False)).eval()
    for conv in [m for m in model.modules() if isinstance(m, nn.Conv2d)]:
        nn.init.kaiming_normal_(conv.weight)  # the library's own are so small that nothing but biases is left
        if conv.kernel_size == (1, 1):
            convnet.thin_out(conv, sparsity, block)
    return model


if __name__ == "__main__":
    title = "MobileNetV2, 224x224, 90 % zeros in 1x1 convolutions"
    convnet.main(lambda block: mobilenet(SPARSITY, block), "mobilenet", title, __doc__)
