"""The light decoder of masked pre-training: feature maps of several scales, fused upwards into pixels."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Up(nn.Module):
    """Twice the resolution: a transposed convolution, then two 3 x 3 convolutions with batch norm."""

    def __init__(self, inner: int, out: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(inner, inner, 4, stride=2, padding=1)
        self.mix = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.grow(x))


class Decoder(nn.Module):
    """`steps` doublings from `width` channels, halved at each; maps of the encoder are added before each doubling."""

    def __init__(self, steps: int, width: int, channels: int) -> None:
        super().__init__()
        widths = [width // 2**i for i in range(steps + 1)]
        self.steps = nn.ModuleList(Up(a, b) for a, b in pairwise(widths))
        self.pixels = nn.Conv2d(widths[-1], channels, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = maps[0]
        for i, step in enumerate(self.steps):
            x = step(x + maps[i] if 0 < i < len(maps) else x)
        return self.pixels(x)
