"""ResNet-18 in plain torch, so that every side of a comparison trains the same network."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        same = into == out and stride == 1
        self.short = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        out: Tensor = torch.relu(self.norm2(self.conv2(y)) + self.short(x))
        return out


def resnet18(classes: int = 100) -> nn.Sequential:
    """He et al. 2016, arXiv:1512.03385, table 1."""
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [block for into, out, stride in stages for block in (Block(into, out, stride), Block(out, out, 1))]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def sparse_resnet18(sparsity: float, seed: int = 0) -> nn.Sequential:
    """With the same share of zeros in every convolution but the first; kept weights grow to keep values' size."""
    torch.manual_seed(seed)
    model = resnet18()
    for conv in convolutions(model):
        with torch.no_grad():
            conv.weight.mul_(torch.rand_like(conv.weight) >= sparsity).mul_((1 - sparsity) ** -0.5)
    return model


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """All but the first."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)][1:]


def replace(model: nn.Module, made: dict[nn.Module, nn.Module]) -> None:
    """Puts other modules in the places of some."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child in made:
                setattr(parent, name, made[child])
