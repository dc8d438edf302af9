"""Continual learning, pruning while data arrive, unlearning and random sources on MNIST, each beside its plain rival.

Usage: python benchmarks/training/continual.py DATA [--seeds 5] [--only split-tasks replay ...]
DATA: a folder with mnist/train-images-idx3-ubyte.gz and its kin. Prints one line a setting: mean, then every seed.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from dense_to_sparse import images
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import SparsityError
from rarefy.training.app import anytime_pruning
from rarefy.training.begin import begin
from rarefy.training.cl_dst import continual_training
from rarefy.training.continual_tasks import Stage
from rarefy.training.cycles import Cycle
from rarefy.training.sparcl import sparcl
from rarefy.training.sparcl_masks import SparclSettings
from rarefy.training.static import static
from rarefy.training.unlearn import unlearn
from rarefy.training.unlearn_metrics import unlearning_metrics

Data = tuple[Tensor, Tensor, Tensor, Tensor]


def show(name: str, found: list[float], digits: int = 4) -> None:
    values = " ".join(f"{v:.{digits}f}" for v in found)
    print(f"| {name} | {statistics.mean(found):.{digits}f} | {values} |", flush=True)


def net(seed: int, width: int = 128, out: int | None = 10, bias: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(784, width, bias), nn.ReLU(), nn.Linear(width, width, bias), nn.ReLU()]
    return nn.Sequential(*layers, *([] if out is None else [nn.Linear(width, out, bias)]))


def steps(model: nn.Module, trainer: Any, x: Tensor, y: Tensor, count: int, seed: int, batch: int = 64) -> None:
    order = torch.Generator().manual_seed(seed)
    for _ in range(count):
        at = torch.randint(len(x), (batch,), generator=order)
        F.cross_entropy(model(x[at]), y[at]).backward()
        trainer.step()
        trainer.zero_grad()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).double().mean())


def split_tasks(data: Data, seeds: int) -> None:
    """Five tasks of two digits in one backbone; mean accuracy after the last, growth against a static mask."""
    x, y, x_test, y_test = data
    print("\n## Five tasks in one backbone (cl-dst)\n")
    print("| growth, sparsity, ratios | mean accuracy | each seed |\n|---|---|---|")

    def one(growth: str, sparsity: float, ratios: str, seed: int) -> float:
        def train(model: nn.Module, stage: Stage) -> None:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            mine = y // 2 == stage.index
            steps(model, stage.attach(optimizer), x[mine][:400], y[mine][:400] % 2, 200, stage.seed)

        def test(model: nn.Module, task: int) -> float:
            mine = y_test // 2 == task
            return accuracy(model, x_test[mine], y_test[mine] % 2)

        heads = [nn.Linear(64, 2) for _ in range(5)]
        settings: dict[str, Any] = {"sparsity": sparsity, "growth": growth, "seed": 100 * seed, "every": 10}
        if ratios != "chosen":
            settings["allocation"] = rarefy.core.registry.lookup("allocation", ratios).factory()
        found = continual_training(net(seed, 64, None), heads, train, total_steps=200, evaluate=test, **settings)
        assert found.scores is not None and found.scores.forgetting == 0.0
        return found.scores.average

    for sparsity, ratios in ((0.98, "erk"), (0.98, "uniform")):
        for growth in ("static", "random", "gradient", "momentum") if ratios == "erk" else ("static", "gradient"):
            show(f"{growth}, {sparsity}, {ratios}", [one(growth, sparsity, ratios, s) for s in range(seeds)])


def replay(data: Data, seeds: int) -> None:
    """Five tasks of two digits, one head of ten classes, a buffer of 200: accuracy and forgetting."""
    x, y, x_test, y_test = data
    print("\n## Replay under one budget (sparcl)\n\n| settings | accuracy | each seed |\n|---|---|---|")
    plain = {"alpha": 0.0, "beta": 0.0, "intra": 0.0, "inter": 0.0}
    table = {
        "90 %, static mask": (0.9, SparclSettings(**plain)),
        "90 %, magnitude instead of importance": (0.9, SparclSettings(alpha=0.0, beta=0.0, every=2)),
        "90 %, sparcl, masks only": (0.9, SparclSettings(every=2)),
        "90 %, sparcl, masks only, shares of 4 %": (0.9, SparclSettings(every=2, intra=0.04, inter=0.04)),
        "90 %, sparcl, all three": (0.9, SparclSettings(every=2, gradient_sparsity=0.92, removal=0.3)),
        "98 %, static mask": (0.98, SparclSettings(**plain)),
        "98 %, magnitude instead of importance": (0.98, SparclSettings(alpha=0.0, beta=0.0, every=2)),
        "98 %, sparcl, masks only": (0.98, SparclSettings(every=2)),
    }
    for name, (sparsity, settings) in table.items():
        scores, forgetting, products = [], [], []
        for seed in range(seeds):
            model = net(seed)
            tasks = [(x[y // 2 == t][:400], y[y // 2 == t][:400]) for t in range(5)]
            found = sparcl(
                model,
                torch.optim.SGD(model.parameters(), lr=0.05),
                tasks,
                sparsity=sparsity,
                settings=settings,
                epochs=8,
                evaluate=lambda m, t: accuracy(m, x_test[y_test // 2 == t], y_test[y_test // 2 == t]),
                seed=seed,
            )
            assert found.scores is not None
            scores.append(found.scores.average)
            forgetting.append(found.scores.forgetting)
            products.append(found.products.share)
        show(name, scores)
        show(f"{name}: forgetting", forgetting)
        show(f"{name}: multiplications, of dense", products)


def anytime(data: Data, seeds: int) -> None:
    """Eight megabatches of 250 images: cumulative error of app, of one-shot pruning to the same density, and dense."""
    x, y, x_test, y_test = data
    print("\n## Eight megabatches (app)\n\n| settings | cumulative error; last error | each seed |\n|---|---|---|")
    whole = [
        [(a, b) for a, b in zip(x[i : i + 250].split(50), y[i : i + 250].split(50), strict=True)]
        for i in range(0, 2000, 250)
    ]

    def train(model: nn.Module, cycle: Cycle, batches: list[Any]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        trainer = cycle.attach(optimizer)
        steps(model, trainer, torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]), 60, cycle.seed)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    for tau in (4.5, 15.0):
        for name, more in {
            f"app, tau {tau}": {},
            f"one shot, tau {tau}": {"one_shot": True},
        }.items():
            reports = [
                anytime_pruning(
                    net(seed), train, whole, parts=8, tau=tau, loss=loss, seed=seed,
                    error=lambda m: 1.0 - accuracy(m, x_test, y_test), **more,
                )
                for seed in range(seeds)
            ]  # fmt: skip
            show(name, [r.cumulative_error for r in reports])
            show(f"{name}: last", [float(r.errors[-1] or 0.0) for r in reports])


def forgetting(data: Data, seeds: int) -> None:
    """Mean absolute gap of the four metrics to a net that was trained anew without the forgotten data."""
    x, y, x_test, y_test = data
    print("\n## Unlearning: gap to retraining\n\n| what is forgotten, way | gap | each seed |\n|---|---|---|")
    x, y = x[:1500], y[:1500]
    random = torch.zeros(1500, dtype=torch.bool).index_fill(0, torch.arange(150), True)

    def trained(seed: int, keep: Tensor, sparsity: float) -> nn.Module:
        model = net(seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        name = "gmp-zhu-gupta" if sparsity else "static"
        trainer = rarefy.sparse_training(
            model, optimizer, name, sparsity=sparsity, total_steps=500, seed=seed, **({"every": 20} if sparsity else {})
        )
        steps(model, trainer, x[keep], y[keep], 500, seed)
        trainer.detach()
        return model

    everything = torch.ones(1500, dtype=torch.bool)
    for what, gone in {"10 % at random": random, "one class": y == 3}.items():
        for name, sparsity, options in (
            ("fine-tuning, dense", 0.0, {}),
            ("fine-tuning, 95 %", 0.95, {}),
            ("fine-tuning with l1, dense", 0.0, {"l1": 1e-3}),
        ):
            gaps = []
            for seed in range(seeds):
                parts = (x[~gone], y[~gone]), (x[gone], y[gone])
                model, anew = trained(seed, everything, sparsity), trained(seed, ~gone, sparsity)
                test = (x_test[:2000], y_test[:2000])
                if what == "one class":
                    test = (test[0][test[1] != 3], test[1][test[1] != 3])
                fast: Callable[..., Any] | None = None
                if options.get("way") is None:
                    fast = lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)  # noqa: E731
                unlearn(model, *parts, optimizer=fast, seed=seed, **options)
                wanted = unlearning_metrics(anew, *parts, test)
                gaps.append(unlearning_metrics(model, *parts, test).gap(wanted))
            show(f"{what}, {name}", gaps)


def source(data: Data, seeds: int) -> None:
    """Edge-popup and gradual pruning inside a random net, at equal final sparsity."""
    x, y, x_test, y_test = data
    print("\n## Inside a random net\n\n| method, source | accuracy | each seed |\n|---|---|---|")
    for inner, sparsity in (("edge-popup", 0.9), ("gmp-zhu-gupta", 0.95)):
        options = {} if inner == "edge-popup" else {"every": 10}
        for zeros in (0.0, 0.5):
            found = []
            for seed in range(seeds):
                model = net(seed, 256, bias=False)
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-2 if inner == "edge-popup" else 1e-3)
                more: dict[str, Any] = {"sparsity": sparsity, "total_steps": 300, "allocation": "uniform", "seed": seed}
                if zeros:
                    name = "random-pruning-start-sparse"
                    more |= {"inner": inner, "options": options, "source": zeros}
                else:
                    name, more = inner, more | options
                steps(model, rarefy.sparse_training(model, optimizer, name, **more), x, y, 300, seed)
                found.append(accuracy(model, x_test, y_test))
            show(f"{inner} to {sparsity:.0%}, source {zeros:.0%}", found)


def ratios(data: Data, seeds: int) -> None:
    """Static random nets by four ratios."""
    from rarefy.training.source_mask import RATIOS

    x, y, x_test, y_test = data
    print("\n## Static random masks by their ratios\n\n| ratios, sparsity | accuracy | each seed |\n|---|---|---|")
    for sparsity in (0.9, 0.98):
        for name, spread in RATIOS.items():
            found = []
            for seed in range(seeds):
                model = net(seed)
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
                try:
                    trainer = begin(model, optimizer, static(), sparsity=sparsity, allocation=spread, seed=seed)
                except SparsityError:  # pyramidal ratios leave nothing of a small last layer
                    break
                steps(model, trainer, x, y, 300, seed)
                found.append(accuracy(model, x_test, y_test))
            if found:
                show(f"{name}, {sparsity}", found)
            else:
                print(f"| {name}, {sparsity} | refused: a layer would be empty | |", flush=True)


PARTS = {
    "split-tasks": split_tasks,
    "replay": replay,
    "anytime": anytime,
    "unlearn": forgetting,
    "source": source,
    "ratios": ratios,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=list(PARTS))
    given = parser.parse_args()
    folder = given.data / "mnist"
    data = (*images(folder, "train", 5000), *images(folder, "t10k", 5000))
    for name in given.only:
        PARTS[name](data, given.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
