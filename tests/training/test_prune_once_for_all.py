"""Pruned once upstream, the zeros are the same after every fine-tuning, and the rate is rewound."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, SparsityError
from rarefy.core.quantized import quantize_weight
from rarefy.training.prune_once_for_all import Rewound, distilled, pattern_lock, prune_once_for_all
from training.loops import mlp


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    logits = model(batch[0])
    return F.cross_entropy(logits, batch[1]), logits


def test_the_rate_falls_returns_and_falls() -> None:
    rate = Rewound(20, 60, 100)
    trace = [rate(t) for t in range(101)]
    assert trace[60] == pytest.approx(trace[20]) and trace[60] > 1.9 * trace[59]
    assert all(a > b for t, (a, b) in enumerate(pairwise(trace)) if t != 59)
    assert trace[0] == 1.0 and trace[100] == 0.0


def test_distillation_is_zero_for_the_teacher_and_grows_with_the_square_of_the_temperature() -> None:
    logits = torch.randn(4, 3, 8)
    assert float(distilled(logits, logits)) == pytest.approx(0.0, abs=1e-6)
    other = logits + 0.1 * torch.randn_like(logits)
    p, q = (logits / 3).softmax(-1), (other / 3).log_softmax(-1)
    expected = 9 * (p * (p.log() - q)).sum(-1).mean()
    assert float(distilled(other, logits, 3.0)) == pytest.approx(float(expected), rel=1e-4)


def test_one_pruned_model_serves_two_tasks_with_the_same_zeros() -> None:
    task = mlp()
    pretrain = torch.optim.AdamW(task.model.parameters(), lr=1e-2)
    for step in range(60):
        task.loss(step).backward()
        pretrain.step()
        pretrain.zero_grad()
    dense = copy.deepcopy(task.model)
    report = prune_once_for_all(
        task.model, task.batches, loss, sparsity=0.8, steps=80, lr=1e-2, every=4, teacher=dense, distill=1.0
    )
    assert report.sparsity == pytest.approx(0.8, abs=2e-3)
    first = float(loss(dense, task.batches[0])[0])
    assert float(loss(task.model, task.batches[0])[0]) < first + 0.7
    zeros = [task.model[i].weight.detach() == 0 for i in (0, 2, 4)]
    for shift in (1, 3):  # two other tasks
        tuned = copy.deepcopy(task.model)
        trainer = pattern_lock(tuned, torch.optim.AdamW(tuned.parameters(), lr=1e-2))
        for x, y in task.batches * 5:
            F.cross_entropy(tuned(x), (y + shift) % 8).backward()
            trainer.step()
            trainer.zero_grad()
        for i, zero in zip((0, 2, 4), zeros, strict=True):
            assert torch.equal(tuned[i].weight.detach() == 0, zero)
            assert bool((quantize_weight(tuned[i].weight.detach(), 8, None).values[zero] == 0).all())


def test_bad_input_is_refused() -> None:
    task = mlp()
    with pytest.raises(DataError, match="no batches"):
        prune_once_for_all(task.model, [], loss, sparsity=0.5, steps=10)
    with pytest.raises(SparsityError, match="0 <= start < end < 1"):
        prune_once_for_all(task.model, task.batches, loss, sparsity=0.5, steps=10, start=0.7)
