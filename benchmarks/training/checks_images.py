"""The checks on MNIST: 2,000 images to train on and 2,000 to test, 784-128-64-10 (last layer dense), 400 steps."""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from checks import Check
from claims import Data, accuracy, loop, net, one_shot
from dense_to_sparse import images
from torch import nn

import rarefy
from rarefy.training.bit_payload import capacity, store
from rarefy.training.bitwise_training import bitwise_training
from rarefy.training.irrelevant_weight_decay import irrelevant_weight_decay
from rarefy.training.under_training import under_training

STEPS = 400
Rows = list[tuple[str, float, float]]


@functools.cache
def mnist(data: Path, count: int = 2000) -> Data:
    return *images(data / "mnist", "train", count), *images(data / "mnist", "t10k", 2000)


def loss_of(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def trained(
    name: Any, images_of: Data, seed: int, *, model: nn.Module | None = None, steps: int = STEPS, lr: float = 2e-3,
    sgd: bool = False, ignore: tuple[str, ...] = ("4",), **options: Any,
) -> tuple[nn.Module, Any]:  # fmt: skip
    """A net after one training by a method, named or made, and its trainer; dense, without a trainer, for None."""
    model = net(128, seed) if model is None else model
    made = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9) if sgd else None
    optimizer = made or torch.optim.AdamW(model.parameters(), lr=lr)
    if name is None:
        loop(model, optimizer, optimizer.step, images_of, steps, seed)
        return model, None
    trainer = rarefy.sparse_training(model, optimizer, name, total_steps=steps, seed=seed, ignore=ignore, **options)
    loop(model, optimizer, trainer.step, images_of, steps, seed)
    return model, trainer


def longer(path: Path, seed: int) -> Rows:
    """AC/DC at 98 %: how far loss and entropy are above those of dense training, 5 x as long and as long as dense."""
    data = mnist(path)
    seen = [(data[0], data[1])]
    dense = under_training(trained(None, data, seed)[0], seen)
    short_net, long_net = (
        trained("acdc-plus-plus", data, seed, steps=k * STEPS, sparsity=0.98, allocation="erk")[0] for k in (1, 5)
    )
    short, long = under_training(short_net, seen), under_training(long_net, seen)
    return [
        ("acdc-plus-plus, 98 %, 5 x the steps over 1 x: training loss above dense", long.loss - dense.loss,
         short.loss - dense.loss),
        ("acdc-plus-plus, 98 %, 5 x the steps over 1 x: entropy above dense", long.entropy - dense.entropy,
         short.entropy - dense.entropy),
    ]  # fmt: skip


def learned_ratios(path: Path, seed: int) -> Rows:
    data = mnist(path)
    model, _ = trained("aswl", data, seed, sparsity=0.95)
    label = "aswl over dense training, one cut and fine-tuning, 95 %"
    return [(label, accuracy(model, data), one_shot(data, STEPS, seed, 0.95))]


def shrinking(path: Path, seed: int) -> Rows:
    """HyperSparse and L1, by SGD, each the best of three strengths, at once after the cut and in the end."""
    from dataclasses import replace

    from rarefy.training.hypersparse_art import hypersparse_art

    data, found = mnist(path), {}
    for l1 in (False, True):
        best = (0.0, 0.0)
        for first in (1e-5, 1e-4, 1e-3):
            made = hypersparse_art(first=first, growth=1.1, every=10)
            method = replace(made, penalty=replace(made.penalty, l1=l1))  # type: ignore[type-var, arg-type]
            model = net(128, seed)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            trainer = rarefy.sparse_training(
                model, optimizer, method, total_steps=2 * STEPS, seed=seed, ignore=["4"], sparsity=0.98
            )
            at_cut: list[float] = []

            def step(trainer: Any = trainer, model: nn.Module = model, at_cut: list[float] = at_cut) -> None:
                trainer.step()
                if "cut" in trainer.run.memory and not at_cut:
                    at_cut.append(accuracy(model, data))

            loop(model, optimizer, step, data, 2 * STEPS, seed)
            best = max(best, (at_cut[0], accuracy(model, data)))
        found[l1] = best
    return [
        ("hypersparse-art over L1, 98 %, before fine-tuning", found[False][0], found[True][0]),
        ("hypersparse-art over L1, 98 %, in the end", found[False][1], found[True][1]),
    ]


def irrelevant(path: Path, seed: int) -> Rows:
    """The zeros that rounds of pruning reach at a tolerance of 5 %, decay gated by irrelevance and plain L2 decay."""
    data, found = mnist(path), []
    batches = [(data[0][:500], data[1][:500])]
    for scale in (1.0, float("inf")):
        best = 0.0
        for strength in (1e-3, 1e-2):
            method = irrelevant_weight_decay(strength=strength, scale=scale, tolerance=0.05, every=20, end=1.0)
            model, trainer = trained(method, data, seed, sgd=True, lr=0.05, sparsity=0.99, data=batches, loss=loss_of)
            if accuracy(model, data) > 85.0:
                best = max(best, 100.0 * trainer.sparsity)
        found.append(best)
    return [("irrelevant-weight-decay over L2 decay: zeros at 85 % accuracy or more", found[0], found[1])]


def one_of_sixteen(path: Path, seed: int) -> Rows:
    data = mnist(path)
    fading = accuracy(trained("nm-gradient-decay", data, seed, pattern="1:16")[0], data)
    rival = accuracy(trained("sr-ste", data, seed, pattern="1:16")[0], data)
    return [
        ("nm-gradient-decay over one cut and fine-tuning, 1:16", fading, one_shot(data, STEPS, seed, None, "1:16")),
        ("nm-gradient-decay over sr-ste, 1:16", fading, rival),
    ]


def both_products(path: Path, seed: int) -> Rows:
    data = mnist(path)
    ours = accuracy(trained("bdwp", data, seed, pattern="2:8")[0], data)
    return [("bdwp, 2:8, plus 1 point, over dense", ours + 1.0, accuracy(trained(None, data, seed)[0], data))]


def blocks(path: Path, seed: int) -> Rows:
    data = mnist(path)
    options = {"sparsity": 0.8, "pattern": "block:8x8"}
    ours = accuracy(trained("blast-block-sparse", data, seed, every=20, **options)[0], data)
    rival = accuracy(trained("static", data, seed, **options)[0], data)
    return [("blast-block-sparse over random blocks, 80 %", ours, rival)]


def payload(path: Path, seed: int) -> Rows:
    """Eight bits a weight, of which three are trained: with a random payload in the other five, plus two points."""
    data, model = mnist(path), net(128, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    bitwise_training(model, optimizer, bits=8, trained=3, seed=seed)
    loop(model, optimizer, optimizer.step, data, STEPS, seed)
    before, generator = accuracy(model, data), torch.Generator().manual_seed(seed + 1)
    store(model, bytes(torch.randint(256, (capacity(model),), generator=generator).tolist()))
    return [("bitwise-training with a payload, plus 2 points, over before it", accuracy(model, data) + 2.0, before)]


CHECKS: dict[str, Check] = {
    "longer": Check(longer, "nats", more=False),
    "aswl": Check(learned_ratios, "% right"),
    "hypersparse": Check(shrinking, "% right"),
    "irrelevant": Check(irrelevant, "% zeros"),
    "1:16": Check(one_of_sixteen, "% right"),
    "bdwp": Check(both_products, "% right"),
    "blocks": Check(blocks, "% right"),
    "payload": Check(payload, "% right"),
}
