"""Claims of the literature that need whole trainings, on MNIST with five seeds: does each hold here?

Usage: python benchmarks/training/claims.py DATA [--steps 400] [--seeds 5] > claims.md
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin. 2,000 training and 2,000 test images, 784-128-64-10.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from dense_to_sparse import images
from torch import Tensor, nn

import rarefy
from rarefy.training.cycles import Cycle
from rarefy.training.lottery import lottery_tickets
from rarefy.training.soups import sparse_model_soup
from rarefy.training.swamp import swamp

Data = tuple[Tensor, Tensor, Tensor, Tensor]


def net(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 10)
    )


def accuracy(model: nn.Module, data: Data) -> float:
    """Per cent of the test images."""
    with torch.no_grad():
        return 100.0 * float((model(data[2]).argmax(1) == data[3]).float().mean())


def loop(
    model: nn.Module, optimizer: Any, step: Callable[[], Any], data: Data, steps: int, seed: int, first: int = 0
) -> None:
    """Steps `first` to `steps` of a training whose learning rate follows half a cosine."""
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for at_step in range(steps):
        at = torch.randint(len(data[0]), (100,), generator=order)
        if at_step >= first:
            F.cross_entropy(model(data[0][at]), data[1][at]).backward()
            step()
            optimizer.zero_grad()
        slower.step()


def trained(name: str | None, data: Data, steps: int, seed: int, width: int = 128, **options: Any) -> float:
    """Accuracy of one training by a method of `sparse_training`; dense without a name."""
    model = net(width, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    step: Callable[[], Any] = optimizer.step
    if name is not None:
        trainer = rarefy.sparse_training(model, optimizer, name, total_steps=steps, seed=seed, ignore=["4"], **options)
        step = trainer.step
    loop(model, optimizer, step, data, steps, seed)
    return accuracy(model, data)


def one_shot(data: Data, steps: int, seed: int, sparsity: float | None, pattern: str = "unstructured") -> float:
    """Dense training for three quarters of the steps, magnitude pruning, fine-tuning for the rest."""
    model = net(128, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    loop(model, optimizer, optimizer.step, data, round(0.75 * steps), seed)
    rarefy.prune(model, "magnitude", sparsity=sparsity, pattern=pattern, ignore=["4"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = rarefy.sparse_training(model, optimizer, "static", start="given", ignore=["4"])
    loop(model, optimizer, trainer.step, data, steps - round(0.75 * steps), seed + 100)
    return accuracy(model, data)


def cycle_train(data: Data, steps: int, seen: list[float]) -> Any:
    """A training for tickets, soups and swamps that notes the accuracy of every model it has trained."""

    def train(model: nn.Module, cycle: Cycle) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        loop(model, optimizer, cycle.attach(optimizer).step, data, steps, cycle.seed, cycle.first_step)
        seen.append(accuracy(model, data))

    return train


def soup(data: Data, steps: int, seed: int) -> tuple[float, float, float]:
    """Accuracy of the soup, of its members (mean), and of iterative pruning with the same steps a model."""
    model = net(128, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loop(model, optimizer, optimizer.step, data, steps, seed)
    seen: list[float] = []
    alone = copy.deepcopy(model)
    sparse_model_soup(
        model, cycle_train(data, steps, seen), sparsity=0.95, rounds=3, members=3, seed=seed, ignore=["4"]
    )
    members = statistics.mean(seen[-3:])
    sparse_model_soup(alone, cycle_train(data, steps, []), sparsity=0.95, rounds=3, members=1, seed=seed, ignore=["4"])
    return accuracy(model, data), members, accuracy(alone, data)


def particles(data: Data, steps: int, seed: int) -> tuple[float, float, float]:
    """Accuracy at 98 % of swamp's mean, of its particles, and of lottery tickets."""
    seen: list[float] = []
    model, alone = net(128, seed), net(128, seed)
    options: dict[str, Any] = {"sparsity": 0.98, "rounds": 4, "rewind": steps // 10, "seed": seed, "ignore": ["4"]}
    swamp(model, cycle_train(data, steps, seen), particles=3, average_from=3 * steps // 4, **options)
    lottery_tickets(alone, cycle_train(data, steps, []), **options)
    return accuracy(model, data), statistics.mean(seen[-3:]), accuracy(alone, data)


def compared(label: str, ours: list[float], theirs: list[float]) -> None:
    wins = sum(a > b for a, b in zip(ours, theirs, strict=True))
    means = f"{statistics.mean(ours):.2f} | {statistics.mean(theirs):.2f}"
    print(f"| {label} | {means} | {wins} of {len(ours)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    data = *images(given.data / "mnist", "train", 2000), *images(given.data / "mnist", "t10k", 2000)
    steps, seeds = given.steps, range(given.seeds)
    sparse: dict[str, Any] = {"sparsity": 0.95, "every": 20}
    print(f"{steps} steps a training, {given.seeds} seeds, test accuracy in per cent.\n")
    print("| claim | the method | its rival | seeds in which it is ahead |\n|---|---|---|---|")
    rigl = [trained("rigl", data, steps, s, **sparse) for s in seeds]
    static = [trained("static", data, steps, s, sparsity=0.95, allocation="er") for s in seeds]
    compared("rigl over a static mask, 95 %", rigl, static)
    compared("dst-ee at least rigl - 0.3, 95 %", [trained("dst-ee", data, steps, s, **sparse) for s in seeds], rigl)
    compared("rigl over set, 95 %", rigl, [trained("set", data, steps, s, **sparse) for s in seeds])
    gradual = [trained("gmp-zhu-gupta", data, steps, s, **sparse) for s in seeds]
    cut = [one_shot(data, steps, s, 0.95) for s in seeds]
    compared("gradual over one-shot, 95 %", gradual, cut)
    compared("iss-p over one-shot, 95 %", [trained("iss-p", data, steps, s, sparsity=0.95) for s in seeds], cut)
    wide = [trained("gmp-zhu-gupta", data, steps, s, 64, sparsity=1.0 - 12672 / 52224, every=20) for s in seeds]
    compared("4 x wider and pruned over small and dense", wide, [trained(None, data, steps, s, 16) for s in seeds])
    soups = [soup(data, steps, s) for s in seeds]
    compared("a soup over its members, 95 %", [a for a, _, _ in soups], [b for _, b, _ in soups])
    compared("a soup over iterative pruning, 95 %", [a for a, _, _ in soups], [c for _, _, c in soups])
    swamps = [particles(data, steps, s) for s in seeds]
    compared("swamp over its particles, 98 %", [a for a, _, _ in swamps], [b for _, b, _ in swamps])
    compared("swamp over lottery tickets, 98 %", [a for a, _, _ in swamps], [c for _, _, c in swamps])


if __name__ == "__main__":
    main()
