"""Accuracy and calibration of ssvi on MNIST beside RigL and dense variational inference, at equal steps.

Usage: python benchmarks/training/bayes.py DATA [--steps 600] [--seeds 3] [--lr 0.01] > bayes.md
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin. 5,000 training and 2,000 test images, 784-128-64-10.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from dense_to_sparse import images
from torch import Tensor, nn

import rarefy
from rarefy.training.posterior import average

RUNS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "rigl, 95 %": ("rigl", 0.95, {}),
    "ssvi, 95 %": ("ssvi", 0.95, {"examples": 5000}),
    "ssvi, 95 %, by the mean": ("ssvi", 0.95, {"examples": 5000, "criterion": "mean"}),
    "ssvi, 95 %, strength 0.01": ("ssvi", 0.95, {"examples": 5000, "strength": 0.01}),
    "ssvi, 98 %": ("ssvi", 0.98, {"examples": 5000}),
    "rigl, 98 %": ("rigl", 0.98, {}),
    "dense variational inference": ("ssvi", 0.0, {"examples": 5000}),
}


def calibration_error(chances: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean over the bins of |accuracy - confidence|, by how many fall into each."""
    sure, found = chances.double().max(1)
    right, total = (found == labels).double(), 0.0
    for k in range(bins):
        inside = (sure > k / bins) & (sure <= (k + 1) / bins)
        if bool(inside.any()):
            total += float((right[inside].mean() - sure[inside].mean()).abs() * inside.double().mean())
    return total


def run(
    name: str, sparsity: float, options: dict[str, Any], data: tuple[Tensor, ...], steps: int, lr: float, seed: int
) -> tuple[float, float]:
    """Test accuracy (per cent) and expected calibration error of one training; ten draws where there are draws."""
    x, y, x_test, y_test = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    more = {"total_steps": steps, "seed": seed, "every": 20, **options}
    trainer = rarefy.sparse_training(model, optimizer, name, sparsity=sparsity, **more)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        at = torch.randint(len(x), (100,), generator=order)
        F.cross_entropy(model(x[at]), y[at]).backward()
        trainer.step()
        trainer.zero_grad()
        slower.step()
    with torch.no_grad():
        plain = name != "ssvi"
        chances = (
            model(x_test).softmax(-1) if plain else average(trainer, lambda: model(x_test).softmax(-1), samples=10)
        )
    return 100.0 * float((chances.argmax(1) == y_test).double().mean()), calibration_error(chances, y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    given = parser.parse_args()
    data = *images(given.data / "mnist", "train", 5000), *images(given.data / "mnist", "t10k", 2000)
    print(f"{given.steps} steps of Adam at {given.lr}, {given.seeds} seeds, mean and spread (largest - smallest).\n")
    print("| training | accuracy, % | calibration error |\n|---|---|---|")
    for label, (name, sparsity, options) in RUNS.items():
        found = [run(name, sparsity, options, data, given.steps, given.lr, seed) for seed in range(given.seeds)]
        cells = []
        for values, digits in zip(zip(*found, strict=True), (2, 4), strict=True):
            cells.append(f"{statistics.mean(values):.{digits}f} ({max(values) - min(values):.{digits}f})")
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
