"""The three trainings of proof.py: data, model, optimizer and what is measured at the end."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """draw(generator) gives a batch; measure(model) what is reported; better: "high" or "low".

    every: steps between two changes of masks.
    """

    name: str
    unit: str
    better: str
    steps: int
    every: int
    model: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    draw: Callable[[torch.Generator], Batch]
    measure: Callable[[nn.Module], float]
    ignore: tuple[str, ...] = ()

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def _accuracy(x: Tensor, y: Tensor) -> Callable[[nn.Module], float]:
    @torch.no_grad()
    def measure(model: nn.Module) -> float:
        model.eval()
        right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
        model.train()
        return 100.0 * right / len(y)

    return measure


def _drawn(x: Tensor, y: Tensor, size: int) -> Callable[[torch.Generator], Batch]:
    def draw(generator: torch.Generator) -> Batch:
        at = torch.randint(len(x), (size,), generator=generator)
        return x[at], y[at]

    return draw


def _idx(file: Path, offset: int) -> np.ndarray:
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=offset)


def fashion(data: Path, steps: int = 600, every: int = 25) -> Task:
    """784-300-100-10 on Fashion-MNIST: 25,000 training images, 5,500 test images."""

    def part(name: str) -> Batch:
        folder = data / "fashion_mnist"
        pixels = _idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 784).astype(np.float32) / 255
        labels = _idx(folder / f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int64)
        return (torch.from_numpy(pixels) - 0.286) / 0.353, torch.from_numpy(labels)

    def model() -> nn.Module:
        layers = [nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)]
        return nn.Sequential(*layers)

    seen, unseen = part("train25k"), part("test_public")
    optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)  # noqa: E731
    draw, measure = _drawn(*seen, 128), _accuracy(*unseen)
    return Task("Fashion-MNIST, MLP", "accuracy, %", "high", steps, every, model, optimizer, draw, measure)


class Residual(nn.Module):
    """relu(x' + bn(conv(relu(bn(conv(x)))))), x' through a 1x1 convolution where the size changes."""

    def __init__(self, wide: int, out: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = (
            nn.Conv2d(wide, out, 3, stride, 1, bias=False),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(out), nn.BatchNorm2d(out)])
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(wide, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))
        return torch.relu(inside + self.short(x))


def cifar(data: Path) -> Task:
    """A residual net of 7 convolutions (16, 32, 64 channels) on CIFAR-10: 20,000 training, 5,000 test images."""
    from PIL import Image

    def part(name: str) -> Batch:
        folder = data / "cifar10" / name
        strips = [
            np.asarray(Image.open(f).convert("RGB")).reshape(-1, 32, 32, 3) for f in sorted(folder.glob("*.webp"))
        ]
        pixels = torch.from_numpy(np.concatenate(strips)).permute(0, 3, 1, 2).float() / 255
        mean, sd = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
        return (pixels - mean) / sd, torch.from_numpy(np.load(folder / "labels.npy").astype(np.int64))

    def model() -> nn.Module:
        start = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        blocks = [Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2)]
        return nn.Sequential(*start, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    seen, unseen = part("train20k"), part("test_public")
    optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)  # noqa: E731
    draw, measure = _drawn(*seen, 64), _accuracy(*unseen)
    return Task("CIFAR-10, ResNet", "accuracy, %", "high", 300, 25, model, optimizer, draw, measure, ("0", "8"))


class Bytes(nn.Module):
    """A byte-level transformer: embeddings of bytes and places, two causal layers of width 64, a head."""

    def __init__(self, width: int = 64, context: int = 64) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(self.norm(x))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in self.qkv(self.norms[0](x)).chunk(3, -1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


def shakespeare(data: Path) -> Task:
    """The byte transformer on tinyshakespeare; the last 5 % of the text are measured, in bits a byte."""
    text = torch.from_numpy(
        np.frombuffer((data / "tinyshakespeare" / "input.txt").read_bytes(), np.uint8).astype(np.int64)
    )
    cut = int(0.95 * len(text))
    windows = text[cut : cut + 65 * 512].view(-1, 65)

    def draw(generator: torch.Generator) -> Batch:
        at = torch.randint(cut - 65, (32, 1), generator=generator) + torch.arange(65)
        return text[at][:, :-1], text[at][:, 1:]

    @torch.no_grad()
    def measure(model: nn.Module) -> float:
        loss = F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        return float(loss) / float(np.log(2))

    optimizer = lambda net: torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)  # noqa: E731
    return Task("Shakespeare, transformer", "bits a byte", "low", 300, 25, Bytes, optimizer, draw, measure, ("head",))


TASKS = {
    "fashion": fashion,
    "fashion-long": partial(fashion, steps=3000, every=100),
    "cifar": cifar,
    "shakespeare": shakespeare,
}
