"""The checks on text: a byte transformer of two layers of width 64, windows of 32 bytes, 16 a step; bits a byte."""

import copy
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from checks import Check
from proof_tasks import Bytes
from torch import Tensor, nn

import rarefy
from rarefy.recipes.sparse_pretraining import sparse_llama_pretraining
from rarefy.training.prune_once_for_all import pattern_lock, prune_once_for_all

Rows = list[tuple[str, float, float]]
STEPS, TUNING = 500, 150
KEPT = ["head"]


@functools.cache
def text(data: Path) -> Tensor:
    raw = (data / "tinyshakespeare" / "input.txt").read_bytes()
    return torch.from_numpy(np.frombuffer(raw, np.uint8).astype(np.int64))


def shifted(ids: Tensor, kind: int) -> Tensor:
    """Another text of the same bytes: letters in capitals, or each letter the next one of the alphabet."""
    small = (ids >= 97) & (ids <= 122)
    return torch.where(small, ids - 32, ids) if kind == 0 else torch.where(small, 97 + (ids - 96) % 26, ids)


def batch(ids: Tensor, generator: torch.Generator, rows: int = 16) -> Tensor:
    at = torch.randint(len(ids) - 33, (rows, 1), generator=generator)
    return ids[at + torch.arange(33)]


def loss_of(model: nn.Module, windows: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(windows[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()), logits


@torch.no_grad()
def bits(model: nn.Module, ids: Tensor) -> float:
    """On the last 5 % of the text, 256 windows."""
    windows = ids[int(0.95 * len(ids)) :][: 256 * 33].view(256, 33)
    return float(loss_of(model, windows)[0]) / math.log(2)


def learn(model: nn.Module, ids: Tensor, steps: int, seed: int, make: Callable[..., Any] | None = None) -> Any:
    """Steps of AdamW whose rate falls on half a cosine; make(optimizer) gives a trainer, else it is dense."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    trainer = optimizer if make is None else make(optimizer)
    order, seen = torch.Generator().manual_seed(seed), ids[: int(0.95 * len(ids))]
    for _ in range(steps):
        loss_of(model, batch(seen, order))[0].backward()
        trainer.step()
        trainer.zero_grad()
        slower.step()
    if make is not None:
        trainer.detach()
    return trainer


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return Bytes(64, 32)


def sparse_then_dense(path: Path, seed: int) -> Rows:
    """Pre-training with 75 % zeros, then tuning on capitals: dense, sparse, and all dense from the start."""
    ids, dense, sparse = text(path), fresh(seed), fresh(seed)
    learn(dense, ids, STEPS, seed)
    options: dict[str, Any] = {"sparsity": 0.75, "seed": seed, "ignore": KEPT}
    learn(sparse, ids, STEPS, seed, lambda o: rarefy.sparse_training(sparse, o, "static", **options))
    stays = copy.deepcopy(sparse)
    other = shifted(ids, 0)
    for model in (dense, sparse):
        learn(model, other, TUNING, seed + 50)
    learn(stays, other, TUNING, seed + 50, lambda o: pattern_lock(stays, o, ignore=KEPT))
    ours = bits(sparse, other)
    return [
        ("spdf, 75 %, tuned densely, over tuned sparsely", ours, bits(stays, other)),
        ("spdf, 75 %, over 1.03 x all dense", ours, 1.03 * bits(dense, other)),
    ]


def once_for_all(path: Path, seed: int) -> Rows:
    """90 %: pruned once on the pre-training text and tuned on two others, or pruned while it is tuned on each."""
    ids, dense = text(path), fresh(seed)
    learn(dense, ids, STEPS, seed)
    order, once = torch.Generator().manual_seed(seed + 9), copy.deepcopy(dense)
    batches = [batch(ids[: int(0.95 * len(ids))], order) for _ in range(200)]
    prune_once_for_all(once, batches, loss_of, sparsity=0.9, steps=STEPS, lr=3e-3, every=10, ignore=KEPT, seed=seed)
    ours, theirs = [], []
    for kind in (0, 1):
        other, tuned, pruned = shifted(ids, kind), copy.deepcopy(once), copy.deepcopy(dense)
        learn(tuned, other, TUNING, seed + 50, lambda o, m=tuned: pattern_lock(m, o, ignore=KEPT))  # type: ignore[misc]
        learn(pruned, other, TUNING, seed + 50, lambda o, m=pruned: rarefy.sparse_training(  # type: ignore[misc]
            m, o, "gmp-zhu-gupta", sparsity=0.9, every=5, begin=0.1, total_steps=TUNING, ignore=KEPT))  # fmt: skip
        ours.append(bits(tuned, other))
        theirs.append(bits(pruned, other))
    label = "prune-once-for-all, 90 %, over pruning in each tuning: mean of two texts"
    return [(label, sum(ours) / 2, sum(theirs) / 2)]


def two_steps(path: Path, seed: int) -> Rows:
    """SparseGPT to 50 %, training, to 70 %, training; and to 70 % at once with as many steps."""
    ids, dense = text(path), fresh(seed)
    learn(dense, ids, STEPS, seed)
    order, found = torch.Generator().manual_seed(seed + 9), []
    data = [batch(ids, order)[:, :-1] for _ in range(16)]
    for sparsities in ((0.5, 0.7), (0.7,)):
        model = copy.deepcopy(dense)

        def pretrain(model: nn.Module, stage: int, count: int = len(sparsities)) -> None:
            learn(model, ids, 2 * TUNING // count, seed + 50 + stage, lambda o: pattern_lock(model, o, ignore=KEPT))

        sparse_llama_pretraining(model, pretrain, data, sparsities=sparsities, ignore=KEPT)
        found.append(bits(model, ids))
    return [("sparse-llama-pretraining, 50 % then 70 %, over 70 % at once", found[0], found[1])]


def mean_parameters(path: Path, seed: int) -> Rows:
    """A net pruned to 50 %, and a dense one with as many parameters as that has in the mean of its training."""
    ids, pruned = text(path), fresh(seed)
    counts: list[float] = []

    def watched(optimizer: Any) -> Any:
        trainer = rarefy.sparse_training(
            pruned, optimizer, "gmp-zhu-gupta", sparsity=0.5, every=10, begin=0.25, end=0.75, total_steps=STEPS,
            ignore=KEPT,
        )  # fmt: skip
        optimizer.register_step_post_hook(lambda *_: counts.append(1.0 - trainer.sparsity))
        return trainer

    learn(pruned, ids, STEPS, seed, watched)
    rival_width = 4 * round(16 * math.sqrt(sum(counts) / len(counts)))  # four heads
    torch.manual_seed(seed)
    rival = Bytes(rival_width, 32)
    learn(rival, ids, STEPS, seed)
    label = f"average-parameter-scaling-law: pruned to 50 %, beside dense of width {rival_width}, as many in the mean"
    return [(label, bits(pruned, ids), bits(rival, ids))]


CHECKS: dict[str, Check] = {
    "spdf": Check(sparse_then_dense, "bits a byte", more=False),
    "once": Check(once_for_all, "bits a byte", more=False),
    "two-steps": Check(two_steps, "bits a byte", more=False),
    "mean": Check(mean_parameters, "bits a byte", more=False),
}
