"""The two networks of the published one-shot tables, their checkpoints and their data."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

_MEAN, _STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Case:
    """A network as trained and its images. ignore: layers that are not pruned.

    train: what gradients are drawn from; held: the last training images, kept out of that, for choosing settings;
    test: what the table reports. augment: how training images are changed when drawn, as they were in training.
    """

    name: str
    model: nn.Module
    train: tuple[Tensor, Tensor]
    held: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    ignore: tuple[str, ...]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """`count` training images, each once before any comes again."""
        generator = torch.Generator().manual_seed(seed)
        orders = [
            torch.randperm(len(self.train[1]), generator=generator) for _ in range(-(-count // len(self.train[1])))
        ]
        some = torch.cat(orders)[:count]
        images = self.train[0][some]
        return images if self.augment is None else self.augment(images, generator), self.train[1][some]


class MLPNet(nn.Module):
    """784-40-20-10 without biases: 32,360 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 40, bias=False)
        self.fc2 = nn.Linear(40, 20, bias=False)
        self.fc3 = nn.Linear(20, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the size changes."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        if stride != 1:
            self.downsample = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet20(nn.Module):
    """268,336 weights in the convolutions of the main path and the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, (into, out) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(into if i == 0 else out, out, 2 if i == 0 and number > 1 else 1) for i in range(3)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


def _state(path: Path) -> dict[str, Tensor]:
    return {key: torch.tensor(value) for key, value in np.load(path).items()}


def _idx(path: Path, offset: int) -> Tensor:
    return torch.tensor(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=offset))


def _mnist(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    pixels = _idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784).float()
    return (pixels / 255 - 0.1307) / 0.3081, _idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).long()


def _cifar(folder: Path) -> tuple[Tensor, Tensor]:
    strips = [np.asarray(Image.open(f)).reshape(-1, 32, 32, 3) for f in sorted(folder.glob("*.webp"))]
    pixels = torch.tensor(np.concatenate(strips)).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor(np.load(folder / "labels.npy")).long()
    if (folder / "lossless.npy").exists():
        exact = torch.tensor(np.load(folder / "lossless.npy"))
        pixels, labels = pixels[exact], labels[exact]
    mean, std = torch.tensor(_MEAN)[:, None, None], torch.tensor(_STD)[:, None, None]
    return (pixels - mean) / std, labels


def cropped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops out of 4 black pixels around, half of them mirrored."""
    black = -torch.tensor(_MEAN) / torch.tensor(_STD)
    padded = black[:, None, None].expand(3, 40, 40).repeat(len(images), 1, 1, 1)
    padded[:, :, 4:36, 4:36] = images
    corners = torch.randint(0, 9, (len(images), 2), generator=generator).tolist()
    out = torch.stack([image[:, i : i + 32, j : j + 32] for image, (i, j) in zip(padded, corners, strict=True)])
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    out[mirrored] = out[mirrored].flip(3)
    return out


def _parted(images: Tensor, labels: Tensor, held: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (images[:-held], labels[:-held]), (images[-held:], labels[-held:])


def mlpnet(data: Path) -> Case:
    model = MLPNet()
    model.load_state_dict(_state(data / "weights" / "chita" / "mlpnet_mnist.npz"))
    train, held = _parted(*_mnist(data / "mnist", "train"), 5000)
    return Case("mlpnet", model.eval(), train, held, _mnist(data / "mnist", "t10k"), ())


def resnet20(data: Path) -> Case:
    """With the batch norms' statistics recomputed on augmented training images: as shipped it is at 53 %."""
    folder = data / "weights" / "chita"
    model = ResNet20()
    state = _state(folder / "resnet20_cifar10.npz") | _state(folder / "resnet20_cifar10_bn_recalibrated.npz")
    model.load_state_dict(state)
    train, held = _parted(*_cifar(data / "cifar10" / "train20k"), 2000)
    held = (cropped(held[0], torch.Generator().manual_seed(99)), held[1])  # it knows them too well as they are
    return Case(
        "resnet20", model.eval(), train, held, _cifar(data / "cifar10" / "test_public"), ("*downsample*",), cropped
    )


def accuracy(model: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Per cent."""
    with torch.inference_mode():
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in zip(*(t.split(500) for t in test), strict=True))
    return 100.0 * right / len(test[1])
