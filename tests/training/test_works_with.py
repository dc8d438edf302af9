"""Whatever a training loop does around the step: every optimizer, accumulation, mixed precision, compilation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError
from rarefy.ops import available
from rarefy.training import optimizers
from rarefy.training.trainer import SparseTrainer
from training.loops import Task, adam, mlp, sgd, start, train

STEPS = 16
RUNTIMES = ["dense", *(["sparse"] if available() else [])]
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 1e-2, "amsgrad": True},
    "AdamW": {"lr": 1e-2, "fused": True},
    "NAdam": {"lr": 1e-2},
    "RAdam": {"lr": 1e-2},
    "Adamax": {"lr": 1e-2},
    "Adagrad": {"lr": 2e-2, "initial_accumulator_value": 0.1},
    "Adadelta": {"lr": 1.0},
    "RMSprop": {"lr": 3e-3, "momentum": 0.5, "centered": True},
    "Rprop": {"lr": 1e-3},
    "ASGD": {"lr": 0.1},
    "Adafactor": {"lr": 1e-2},
}
FIRST = {"sum": 0.1, "step_size": 1e-3}  # what these memories of a weight begin with, all others with zero


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_trains_and_remembers_nothing_of_what_was_dropped(name: str) -> None:
    task = mlp()
    kind: Any = getattr(torch.optim, name)
    trainer, optimizer = start(task, "rigl", lambda model: kind(model.parameters(), **OPTIMIZERS[name]), every=4)
    masks = {n: m.clone() for n, m in trainer.masks.items()}
    losses = list(train(task, trainer, STEPS))
    assert sum(losses[-4:]) < sum(losses[:4])
    assert any(not torch.equal(masks[n], m) for n, m in trainer.masks.items())
    for state in trainer.run.states:
        assert state.kept == state.count and bool((state.value()[~state.mask] == 0).all())
        for key, memory in optimizers.entries(optimizer, state.weight.parameter):
            left = state.weight.as_matrix(memory)[~state.mask]
            assert bool(((left - FIRST.get(key, 0.0)).abs() <= 2e-8).all()), (name, key)  # Adamax never goes below 1e-8


def same(a: SparseTrainer, b: SparseTrainer) -> bool:
    """Whether two runs kept the same weights and have nearly the same values."""
    pairs = list(zip(a.run.states, b.run.states, strict=True))
    equal = all(torch.equal(x.mask, y.mask) for x, y in pairs)
    return equal and all(torch.allclose(x.value(), y.value(), atol=1e-5) for x, y in pairs)


def run(loop: Callable[[Task, SparseTrainer, int], None], optimizer: Any = sgd) -> SparseTrainer:
    task = mlp()
    trainer, _ = start(task, "rigl", optimizer, every=4, total_steps=STEPS)
    for step in range(STEPS):
        loop(task, trainer, step)
        trainer.step()
        trainer.zero_grad()
    return trainer


def whole_batch(task: Task, trainer: SparseTrainer, step: int) -> None:
    task.loss(step).backward()


def test_growth_sees_the_accumulated_gradient() -> None:
    def check(parts: int) -> None:
        def accumulated(task: Task, trainer: SparseTrainer, step: int) -> None:
            x, y = task.batches[step % 4]
            for x_part, y_part in list(zip(x.chunk(4), y.chunk(4), strict=True))[:parts]:
                (F.cross_entropy(task.model(x_part), y_part) / parts).backward()

        assert same(run(accumulated), run(whole_batch))

    assert_beats_impostor(check, 4, 1)


def test_mixed_precision_without_a_scaler_and_a_compiled_model() -> None:
    """Weights and masks stay float32 and exact; the compiled forward and backward give what the plain ones give."""

    def plain(task: Task, trainer: SparseTrainer, step: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = task.loss(step)
        loss.backward()

    compiled: dict[int, Task] = {}

    def through_the_compiler(task: Task, trainer: SparseTrainer, step: int) -> None:
        made = compiled.setdefault(0, Task(torch.compile(task.model, backend="aot_eager"), task.batches))
        plain(made, trainer, step)

    first, second = run(plain, adam), run(through_the_compiler, adam)
    for a, b in zip(first.run.states, second.run.states, strict=True):
        assert a.value().dtype is torch.float32 and a.kept == a.count and b.kept == b.count
        assert torch.allclose(a.value(), b.value(), atol=2e-2) and bool((b.value()[~b.mask] == 0).all())


def test_bfloat16_weights_stay_exactly_sparse() -> None:
    task = mlp()
    task.model.to(torch.bfloat16)
    task.batches = [(x.to(torch.bfloat16), y) for x, y in task.batches]
    trainer, _ = start(task, "rigl", sgd, every=4)
    losses = list(train(task, trainer, STEPS))
    assert sum(losses[-4:]) < sum(losses[:4])
    for state in trainer.run.states:
        assert state.value().dtype is torch.bfloat16 and state.kept == state.count
        assert bool((state.value()[~state.mask] == 0).all())


def _forget_settings(accelerate: Any) -> None:
    """The first Accelerator of a process settles the precision of all others, in other tests too."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate_in_bfloat16_goes_on_from_its_checkpoint(tmp_path: Any, request: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    request.addfinalizer(partial(_forget_settings, accelerate))
    _forget_settings(accelerate)

    def made() -> tuple[Any, Task, nn.Module, Any, SparseTrainer]:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
        task = mlp()
        model, optimizer = accelerator.prepare(task.model, adam(task.model))
        trainer = rarefy.sparse_training(model, optimizer, "rigl", sparsity=0.75, total_steps=STEPS, every=3)
        return accelerator, task, model, optimizer, trainer

    def go(parts: Any, first: int, last: int) -> None:
        accelerator, task, model, optimizer, trainer = parts
        for step in range(first, last):
            x, y = task.batches[step % 4]
            accelerator.backward(F.cross_entropy(model(x), y))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            trainer.step()
            optimizer.zero_grad()

    whole, half, again = made(), made(), made()
    go(whole, 0, STEPS)
    go(half, 0, STEPS // 2)
    half[0].save_state(tmp_path)
    torch.save(half[4].state_dict(), tmp_path / "trainer.pt")
    again[0]._models, again[0]._optimizers = [again[2]], [again[3]]
    again[0].load_state(tmp_path)
    again[4].load_state_dict(torch.load(tmp_path / "trainer.pt", weights_only=True))
    go(again, STEPS // 2, STEPS)
    for a, b in zip(again[1].model.parameters(), whole[1].model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole[4].sparsity == pytest.approx(0.75, abs=0.01)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_matrices_by_muon_and_the_rest_by_another_optimizer() -> None:
    task = mlp()
    matrices, rest = ([p for p in task.model.parameters() if (p.dim() == 2) is wide] for wide in (True, False))
    other = torch.optim.AdamW(rest, lr=1e-2)
    trainer, muon = start(task, "rigl", lambda _: torch.optim.Muon(matrices, lr=1e-2), every=4)
    losses = []
    for step in range(STEPS):
        loss = task.loss(step)
        loss.backward()
        trainer.step()
        other.step()
        for optimizer in (muon, other):
            optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < sum(losses[:4])
    assert all(s.kept == s.count and bool((s.value()[~s.mask] == 0).all()) for s in trainer.run.states)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_compiled_optimizer_step_does_the_same(runtime: str) -> None:
    task, plain = mlp(width=32), mlp(width=32)
    expected = list(train(plain, start(plain, "rigl", every=3, runtime=runtime)[0], 8))
    trainer, optimizer = start(task, "rigl", every=3, runtime=runtime)
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    losses = []
    for at in range(8):
        loss = task.loss(at)
        loss.backward()
        step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == pytest.approx(expected, rel=1e-5) and trainer.step_count == 8


def test_a_layer_without_a_shape_is_refused_with_what_to_do() -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ModelError, match=r"0: a LazyLinear whose weight has no shape yet; call the model on a batch"):
        rarefy.sparse_training(model, sgd(model[2]), "set", sparsity=0.5)
    trainer = rarefy.sparse_training(model, sgd(model[2]), "set", sparsity=0.5, ignore=["0"])
    assert list(trainer.masks) == ["2"]


def test_a_layer_whose_weight_is_computed_is_refused_or_left_alone() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(ModelError, match=r"0: is no parameter but computed from others.*ignore=\['0'\]"):
        rarefy.sparse_training(model, sgd(model), "set", sparsity=0.5)
    trainer = rarefy.sparse_training(model, sgd(model), "set", sparsity=0.5, ignore=["0"])
    assert list(trainer.masks) == ["2"]


@pytest.mark.skipif(not available(), reason="no layer is packed without native kernels")
def test_calls_that_look_at_dense_weights_say_what_to_do_with_packed_ones() -> None:
    task = mlp(width=32)
    trainer, _ = start(task, "rigl", every=4, runtime="sparse")
    list(train(task, trainer, 3))
    x = task.batches[0][0]
    calls: list[Callable[[], Any]] = [
        lambda: rarefy.prune(task.model, "magnitude", sparsity=0.9),
        lambda: rarefy.compile(task.model, (x,)),
    ]
    for call in calls:
        with pytest.raises(ModelError, match=r"0: a sparse trainer is at work on it.*trainer\.unpack\(\)"):
            call()
    trainer.unpack()
    wanted = task.model.eval()(x).detach()
    assert torch.allclose(calls[1]()(x), wanted, atol=1e-4)
