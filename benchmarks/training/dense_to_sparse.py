"""Accuracy of the dense-to-sparse and N:M methods on MNIST at equal steps, each beside its plain rival.

Usage: python benchmarks/training/dense_to_sparse.py DATA [--steps 600] [--seeds 3] [--width 256] > table.md
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin. 5,000 training images, 784-width-width/2-10, AdamW.
"""

import argparse
import gzip
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from rarefy.training.under_training import under_training

UNSTRUCTURED: dict[str, tuple[str, dict[str, Any]]] = {
    "static random": ("static", {}),
    "static, largest at the start": ("static", {"start": "magnitude"}),
    "gmp-zhu-gupta": ("gmp-zhu-gupta", {"every": 20}),
    "acdc": ("acdc", {"every": 40}),
    "acdc-plus-plus, 3 x the steps": ("acdc-plus-plus", {"length": 3}),
    "iss-p": ("iss-p", {}),
    "iss-p, factor 0": ("iss-p", {"factor": 0.0}),
    "powerpropagation, alpha 2": ("powerpropagation", {"every": 20}),
    "top-kast": ("top-kast", {"every": 20, "end": 0.75}),
    "movement-pruning": ("movement-pruning", {"every": 20}),
    "irrelevant-weight-decay": ("irrelevant-weight-decay", {"every": 20, "strength": 1e-3}),
    "hypersparse-art": ("hypersparse-art", {"every": 10, "first": 1e-5, "growth": 1.15}),
    "aswl": ("aswl", {}),
}
NM: dict[str, tuple[str, dict[str, Any]]] = {
    "ste": ("ste", {}),
    "sr-ste": ("sr-ste", {}),
    "nm-gradient-decay, linear": ("nm-gradient-decay", {"kind": "linear"}),
    "nm-gradient-decay, exponential": ("nm-gradient-decay", {"kind": "exponential"}),
    "nm-gradient-decay, stepwise": ("nm-gradient-decay", {"kind": "stepwise"}),
    "bdwp": ("bdwp", {}),
    "bi-mask": ("bi-mask", {"candidates": 20}),
    "transposable-ste": ("transposable-ste", {}),
}


def images(folder: Path, kind: str, count: int) -> tuple[Tensor, Tensor]:
    pixels = np.frombuffer(gzip.decompress((folder / f"{kind}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / f"{kind}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    x = torch.from_numpy(pixels.reshape(-1, 784)[:count].astype(np.float32)) / 255.0
    return (x - 0.1307) / 0.3081, torch.from_numpy(labels[:count].astype(np.int64))


def run(
    method: str, options: dict[str, Any], data: tuple[Tensor, ...], steps: int, seed: int, width: int = 256
) -> tuple[float, float]:
    """Test accuracy and training loss of one training."""
    x, y, x_test, y_test = data
    options = dict(options)
    steps *= options.pop("length", 1)
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 10)
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    trainer = rarefy.sparse_training(
        model, optimizer, method, total_steps=steps, seed=seed, ignore=["4"], **options
    )  # fmt: skip
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        at = torch.randint(len(x), (100,), generator=order)
        F.cross_entropy(model(x[at]), y[at]).backward()
        trainer.step()
        optimizer.zero_grad()
        decay.step()
    zeros = sum(int((model[i].weight == 0).sum()) for i in (0, 2)) / sum(model[i].weight.numel() for i in (0, 2))
    asked = options.get("sparsity")
    if asked is not None:
        assert abs(trainer.sparsity - asked) < 1e-3 and zeros > asked - 1e-3, (method, zeros)
    with torch.no_grad():
        accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
    return accuracy, under_training(model, [(x, y)]).loss


def row(
    name: str, method: str, options: dict[str, Any], data: tuple[Tensor, ...], steps: int, seeds: int, width: int
) -> None:
    found = [run(method, options, data, steps, seed, width) for seed in range(seeds)]
    accuracy, loss = zip(*found, strict=True)
    spread = statistics.stdev(accuracy) * 100 if seeds > 1 else 0.0
    mean = statistics.mean(accuracy) * 100
    print(f"| {name} | {mean:.2f} | {spread:.2f} | {statistics.mean(loss):.4f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--sparsities", type=float, nargs="*", default=[0.98, 0.9])
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    folder = given.data / "mnist"
    data = (*images(folder, "train", 5000), *images(folder, "t10k", 10000))
    head = "| method | test accuracy, % | sd | training loss |\n|---|---|---|---|"
    for title, table, common in (
        *((f"{s:.0%} unstructured", UNSTRUCTURED, {"sparsity": s}) for s in given.sparsities),
        (
            "1:16",
            {k: v for k, v in NM.items() if k not in ("bdwp", "bi-mask", "transposable-ste")},
            {"pattern": "1:16"},
        ),
        ("2:8", {k: v for k, v in NM.items() if k != "transposable-ste"}, {"pattern": "2:8"}),
        ("t2:8", {"transposable-ste": NM["transposable-ste"]}, {"pattern": "t2:8"}),
    ):
        print(f"\n## {title}\n\n{head}", flush=True)
        row("dense", "static", {"sparsity": 0.0}, data, given.steps, given.seeds, given.width)
        for name, (method, options) in table.items():
            if not given.only or name in given.only or method in given.only:
                row(name, method, {**options, **common}, data, given.steps, given.seeds, given.width)
    return 0


if __name__ == "__main__":
    sys.exit(main())
