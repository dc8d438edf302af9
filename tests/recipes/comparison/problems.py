"""A small regression that separates methods, with everything at the top of a module so that it can travel.

Run as a program it compares slowly, for tests that kill it: python problems.py OUT SECONDS
"""

import os
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.recipes.comparison.compare import compare

METHODS = ["random", "magnitude", "wanda", "sparsegpt"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 8)).eval()


def inputs(seed: int, rows: int = 64) -> Tensor:
    """Inputs whose columns differ in size by up to 30, so that input norms matter."""
    scale = torch.logspace(0, 1.5, 24)[torch.randperm(24, generator=torch.Generator().manual_seed(9))]
    return torch.randn(rows, 24, generator=torch.Generator().manual_seed(seed)) * scale


def batches(seed: int) -> list[Tensor]:
    return [inputs(1000 + 10 * seed + i) for i in range(3)]


def error(net: nn.Module) -> float:
    """Relative squared error against the dense model on unseen inputs, in percent."""
    x = inputs(7, 256)
    with torch.no_grad():
        wanted = model()(x)
        return 100 * float((net(x) - wanted).square().sum() / wanted.square().sum())


def loss(net: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(net(x), torch.zeros(len(x), 8))


def counted(net: nn.Module, log: Path, seconds: float = 0.0) -> float:
    """`error`, with a line in a file a call."""
    time.sleep(seconds)
    with log.open("a") as file:
        file.write("x\n")
    return error(net)


def deadly(net: nn.Module) -> float:
    """Ends the process that evaluates a model with 80 % zeros."""
    if (net[0].weight == 0).float().mean() > 0.75:
        os._exit(3)
    return error(net)


def main(out: Path, seconds: float) -> None:
    evaluate = partial(counted, log=out / "log", seconds=seconds)
    compare(model(), METHODS, evaluate=evaluate, sparsity=[0.5, 0.7], data=batches, seeds=2, out=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
