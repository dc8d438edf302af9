"""Lottery tickets of an MNIST net, frozen, on digits that are shifted and upside down: accuracy and calibration.

Usage: python benchmarks/training/reprogram.py DATA [--seeds 5] > table.md
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin. The dense parent is taken at the ticket's accuracy.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from dense_to_sparse import images
from torch import Tensor, nn

from rarefy.analysis.reprogram_study import Canvas, match_upstream, reprogram_study
from rarefy.analysis.reprogramming import ReprogramSettings
from rarefy.analysis.transfer_study import Task
from rarefy.training.cycles import Cycle
from rarefy.training.lottery import lottery_tickets


def turned(x: Tensor, y: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Upside down, moved by up to two pixels, with other numbers."""
    pictures = x.view(-1, 1, 28, 28).flip(2, 3)
    moves = torch.randint(-2, 3, (len(x), 2), generator=torch.Generator().manual_seed(seed)).tolist()
    moved = torch.stack([p.roll(move, (1, 2)) for p, move in zip(pictures, moves, strict=True)])
    return moved, (y + 3) % 10


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    folder = given.data / "mnist"
    x, y = images(folder, "train", 4000)
    x_test, y_test = images(folder, "t10k", 3000)
    task = Task("turned", turned(x[3000:], y[3000:], 0), turned(x_test, y_test, 1), 10)
    canvas = Canvas(1, (28, 28), (20, 20), lambda pictures: pictures.flatten(1))

    @torch.no_grad()
    def upstream(model: nn.Module) -> float:
        return float((model(x_test).argmax(1) == y_test).double().mean())

    print("| seed | net | upstream | way | accuracy | calibration error |\n|---|---|---|---|---|---|")
    for seed in range(given.seeds):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        checkpoints: list[tuple[nn.Module, float]] = []

        def train(net: nn.Module, cycle: Cycle, kept: list[tuple[nn.Module, float]] = checkpoints) -> None:
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
            trainer, order = cycle.attach(optimizer), torch.Generator().manual_seed(cycle.seed)
            for step in range(cycle.first_step, 200):
                at = torch.randint(3000, (64,), generator=order)
                F.cross_entropy(net(x[at]), y[at]).backward()
                trainer.step()
                optimizer.zero_grad()
                if cycle.index == 0 and step % 10 == 9:
                    kept.append((copy.deepcopy(net), upstream(net)))

        lottery_tickets(model, train, sparsity=0.9, rounds=3, rewind=20, seed=100 * seed)
        nets = {"dense, matched": match_upstream(checkpoints, upstream(model)), "90 % ticket": model}
        settings = ReprogramSettings(epochs=10)
        for row in reprogram_study(
            nets, [task], canvas, upstream, features=lambda net: net[:4], settings=settings, seed=seed
        ):
            assert not row.moved
            cells = f"{row.upstream:.4f} | {row.way} | {row.accuracy:.4f} | {row.reliability.error:.4f}"
            print(f"| {seed} | {row.name} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
