"""The checks of studies on MNIST, as in checks_images.py: ratios, widths, examples, functions and averages."""

import copy
from pathlib import Path
from typing import Any

import torch
from checks import Check
from checks_images import STEPS, Rows, loss_of, mnist, trained
from claims import accuracy, cycle_train, loop, net
from torch import nn

import rarefy
from rarefy.allocations.given import Given
from rarefy.allocations.ranked import Global
from rarefy.analysis.edge_of_chaos import initialise
from rarefy.scores.snip import Snip
from rarefy.training.data_diet import keep_examples, score_examples
from rarefy.training.safs import safs
from rarefy.training.sparse_ift import sparse_ift
from rarefy.training.swamp import swamp
from rarefy.training.under_training import under_training


def wider(path: Path, seed: int) -> Rows:
    """What a random mask of 90 % costs: at width 32 and at width 512."""
    data, gaps = mnist(path), []
    for width in (512, 32):
        dense = accuracy(trained(None, data, seed, model=net(width, seed))[0], data)
        sparse, _ = trained("static", data, seed, model=net(width, seed), sparsity=0.9, allocation="erk")
        gaps.append(dense - accuracy(sparse, data))
    return [("random-pruning, 90 %: points behind dense, width 512 and width 32", gaps[0], gaps[1])]


def shuffled(path: Path, seed: int) -> Rows:
    data = mnist(path)
    options: dict[str, Any] = {"sparsity": 0.9, "data": [(data[0][:500], data[1][:500])], "loss": loss_of}
    masks = accuracy(trained("snip", data, seed, **options)[0], data)
    ours = accuracy(trained("random-pruning", data, seed, allocation=Global(Snip()), **options)[0], data)
    return [("random-pruning with SNIP's ratios, plus 1 point, over SNIP, 90 %", ours + 1.0, masks)]


def same_products(path: Path, seed: int) -> Rows:
    """A net with room to spare for 1,000 images, and one without for 2,000; as they are, and twice as wide at 75 %."""
    rows = []
    for width, count in ((64, 1000), (16, 2000)):
        data, dense = mnist(path, count), net(width, seed)
        found = sparse_ift(dense, "wide", sparsity=0.75)
        options = {"sparsity": 0.75, "allocation": Given(found.densities), "every": 20, "ignore": ()}
        ours = accuracy(trained("rigl", data, seed, model=found.model, **options)[0], data)
        rival = accuracy(trained(None, data, seed, model=dense)[0], data)
        rows.append((f"sparse-ift, wide, 75 %, over 784-{width}-{width // 2}-10, {count} images", ours, rival))
    return rows


def hard_examples(path: Path, seed: int) -> Rows:
    """Accuracy on 60 % of 2,000 images: without the lowest EL2N of ten nets, and without any 40 %."""
    data = mnist(path)
    nets = [trained(None, data, 100 * seed + k + 50, steps=60)[0] for k in range(10)]
    kept = keep_examples(score_examples(nets, [(data[0], data[1])]), 0.4)
    some = torch.randperm(2000, generator=torch.Generator().manual_seed(seed + 9))[: len(kept)]
    parts = [accuracy(trained(None, (data[0][at], data[1][at], *data[2:]), seed)[0], data) for at in (kept, some)]
    return [("el2n-grand: without the easiest 40 % over without any 40 %", parts[0], parts[1])]


def rescaled(path: Path, seed: int) -> Rows:
    """31 layers, 100 tanh units each, from the edge of chaos, 90 % pruned before training, rescaled or not."""
    data, found = mnist(path), []
    for rescale in (True, False):
        layers = [m for _ in range(29) for m in (nn.Linear(100, 100), nn.Tanh())]
        model = nn.Sequential(nn.Linear(784, 100), nn.Tanh(), *layers, nn.Linear(100, 10))
        initialise(model, "tanh", seed=seed)
        batch = [(data[0][:500], data[1][:500])]
        rarefy.prune(model, "robust-pai", sparsity=0.9, data=batch, loss=loss_of, rescale=rescale, allocation="uniform")
        made, _ = trained("static", data, seed, model=model, start="given", sgd=True, lr=0.01, ignore=())
        found.append(accuracy(made, data))
    return [("robust-pai: rescaled, minus 10 points, over not, 31 layers, 90 %", found[0] - 10.0, found[1])]


def functions(path: Path, seed: int) -> Rows:
    """99 % pruned; 100 steps with functions and a rate that were searched on 500 images, and with ReLU."""
    data = mnist(path)
    model, held = trained(None, data, seed)[0], (data[0][1500:], data[1][1500:])
    rarefy.prune(model, "magnitude", sparsity=0.99, ignore=["4"], allocation="global")

    def tune(model: nn.Module, lr: float) -> None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
        trainer = rarefy.sparse_training(model, optimizer, "static", start="given", ignore=["4"])
        loop(model, optimizer, trainer.step, (data[0][:1500], data[1][:1500], *data[2:]), 100, seed)
        trainer.detach()

    def judge(model: nn.Module) -> float:
        return under_training(model, [held]).loss

    rates, plain = (1e-3, 3e-3, 1e-2, 3e-2), []
    for rate in rates:
        one = copy.deepcopy(model)
        tune(one, rate)
        plain.append((judge(one), accuracy(one, data)))
    safs(model, tune, judge, settings=rates, brief=1e-2, rounds=12, seed=seed)
    ours = accuracy(model, data)
    return [
        ("safs over ReLU at the rate of the dense training, 99 %", ours, plain[0][1]),
        ("safs over ReLU at the best of the same rates, 99 %", ours, min(plain)[1]),
    ]


def no_barrier(path: Path, seed: int) -> Rows:
    """Training loss in the middle between two particles of the last round, and 1.05 x the larger of theirs."""
    data, models = mnist(path), []
    plain = cycle_train(data, STEPS, [])

    def train(model: nn.Module, cycle: Any) -> None:
        plain(model, cycle)
        models.append(copy.deepcopy(model))

    swamp(net(128, seed), train, sparsity=0.9, rounds=3, particles=2, rewind=STEPS // 10, seed=seed, ignore=["4"])
    one, two = models[-2:]
    worst = 0.0
    ends = [under_training(m, [(data[0], data[1])]).loss for m in (one, two)]
    for k in range(1, 10):
        between = copy.deepcopy(one)
        mixed = {n: torch.lerp(v, two.state_dict()[n], k / 10) for n, v in one.state_dict().items()}
        between.load_state_dict(mixed)
        worst = max(worst, under_training(between, [(data[0], data[1])]).loss)
    return [("swamp: loss on the line between two particles below 1.05 x theirs, 90 %", worst, 1.05 * max(ends))]


CHECKS: dict[str, Check] = {
    "width": Check(wider, "points", more=False),
    "shuffled": Check(shuffled, "% right"),
    "iso-flop": Check(same_products, "% right"),
    "examples": Check(hard_examples, "% right"),
    "rescaled": Check(rescaled, "% right"),
    "functions": Check(functions, "% right"),
    "barrier": Check(no_barrier, "nats", more=False),
}
