"""The trained CIFAR-10 ResNet-20 at 90 % zeros: its accuracy, and its time beside dense torch.

    python benchmarks/conv/resnet20.py --data ../shared/data --weights out.pt --epochs 4   # prunes and trains
    python benchmarks/conv/resnet20.py --data ../shared/data --weights out.pt              # times what is in out.pt
    python benchmarks/conv/resnet20.py --data ../shared/data --eight                       # accuracy in 8 bits, dense

Pruning: magnitudes, one budget for all convolutions but the first; then SGD on the kept weights with the mask fixed.
"""

import argparse
import glob
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import rarefy
from rarefy.engine.timing import interleaved

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: a slice with zero channels on both sides where the size changes."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.extra = stride, (out - into) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """He et al. 2015, section 4.2, n = 3."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, (into, out) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            blocks = [Block(into if i == 0 else out, out, 2 if i == 0 and number > 1 else 1) for i in range(3)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def images(folder: Path) -> tuple[Tensor, Tensor]:
    """(n, 3, 32, 32) normalised, and labels."""
    strips = [
        np.asarray(Image.open(f).convert("RGB")).reshape(-1, 32, 32, 3) for f in sorted(glob.glob(f"{folder}/*.webp"))
    ]
    pixels = torch.from_numpy(np.concatenate(strips)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (_MEAN, _STD))
    labels = next(iter(sorted(glob.glob(f"{folder}/*label*"))))
    return (pixels - mean) / std, torch.from_numpy(np.load(labels).astype(np.int64))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation mode."""
    if isinstance(model, ResNet20):  # what is compiled is for evaluation only
        model.eval()
    with torch.inference_mode():
        return float((torch.cat([model(b).argmax(1) for b in x.split(250)]) == y).float().mean())


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> None:
    """SGD with cosine learning rate, random crops and flips; zeros stay zeros."""
    weights = [(p, p.detach() != 0) for p in model.parameters() if p.dim() == 4]
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(x), generator=generator).split(128):
            if len(batch) < 128:
                continue
            dx, dy, flip = (int(n) for n in torch.randint(0, 9, (3,), generator=generator))
            seen = F.pad(x[batch], (4, 4, 4, 4))[:, :, dx : dx + 32, dy : dy + 32]
            loss = F.cross_entropy(model(seen.flip(3) if flip % 2 else seen), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for parameter, keep in weights:
                    parameter.mul_(keep)


def trained(data: Path) -> ResNet20:
    """The published dense weights."""
    model = ResNet20()
    given = np.load(data / "weights" / "akamaster" / "resnet20-12fca82f.npz")
    model.load_state_dict({k.removeprefix("module."): torch.tensor(v) for k, v in given.items()}, strict=False)
    return model.eval()


def eight(data: Path) -> None:
    """What 8 bits cost in accuracy: scales from 500 training images, or of each image's own."""
    model, (x, y) = trained(data), images(data / "cifar10" / "test_public")
    batches = list(images(data / "cifar10" / "train20k")[0][:500].split(250))
    print(f"float32: accuracy {accuracy(model, x, y):.4f} on {len(x)} test images")
    for name, given in (("scales from data", {"data": batches}), ("scales at the call", {})):
        fast = rarefy.compile(model, batches[0], weights="int8", activations="int8", **given)
        used = sorted({row.kernel.split("-")[0] for row in fast.explain().rows})
        print(f"int8, {name}: accuracy {accuracy(fast, x, y):.4f}; kernels {', '.join(used)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=0)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--eight", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.eight:
        return eight(options.data)
    model = trained(options.data)
    if options.epochs:
        x, y = images(options.data / "cifar10" / "test_public")
        print(f"dense: accuracy {accuracy(model, x, y):.4f} on {len(x)} test images", flush=True)
        rarefy.prune(
            model, "magnitude", sparsity=options.sparsity, ignore=["re:^conv1$", "linear"], allocation="global"
        )
        print(f"pruned to {options.sparsity:.0%} zeros: accuracy {accuracy(model, x, y):.4f}", flush=True)
        train(model, *images(options.data / "cifar10" / "train20k"), options.epochs)
        print(f"after {options.epochs} epochs on the kept weights: accuracy {accuracy(model, x, y):.4f}", flush=True)
        torch.save(model.state_dict(), options.weights)
        return
    model.load_state_dict(torch.load(options.weights))
    model.eval()
    inputs = [torch.randn(batch, 3, 32, 32) for batch in (1, 64)]
    fast = rarefy.compile(model, inputs)
    print(fast.explain().graph)
    for x in inputs:
        with torch.inference_mode():
            rounds = interleaved({"torch": lambda x=x: model(x), "rarefy": lambda x=x: fast(x)}, rounds=31, warmup=5)
            far = float((fast(x) - model(x)).abs().max())
        print(
            f"batch {len(x)}: dense torch {rounds.median('torch'):.2f} ms, rarefy {rounds.median('rarefy'):.2f} ms, "
            f"{rounds.ratio('rarefy', 'torch'):.2f}x, largest difference of an output {far:.1e}"
        )


if __name__ == "__main__":
    main()
