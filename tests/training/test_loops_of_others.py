"""Loops that rarefy does not own, and what they do to gradients on the way."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import DataError, ModelError, SparsityError, UnknownNameError
from rarefy.training import SparseTrainer
from training.loops import STEPS, Task, adam, mlp, recurrent, sgd, start, train


def weights_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def reference(steps: int = STEPS, optimizer: Callable[..., Any] = adam) -> tuple[Task, Any]:
    task = mlp()
    trainer, _ = start(task, "rigl", optimizer, every=4, total_steps=STEPS)
    list(train(task, trainer, steps))
    return task, trainer


def test_the_optimizers_own_step_does_the_same() -> None:
    expected, _ = reference()
    task = mlp()
    _, optimizer = start(task, "rigl", every=4)
    for step in range(STEPS):
        task.loss(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(weights_of(task.model), weights_of(expected.model), strict=True))


def test_a_step_with_a_closure_does_the_same() -> None:
    expected, _ = reference()
    task = mlp()
    trainer, optimizer = start(task, "rigl", every=4)
    for step in range(STEPS):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = task.loss(step)
            loss.backward()
            return loss

        assert trainer.step(closure) is not None
    assert all(torch.equal(a, b) for a, b in zip(weights_of(task.model), weights_of(expected.model), strict=True))


def test_after_detach_the_steps_are_ordinary_ones() -> None:
    task, trainer = reference(8)
    report = trainer.detach()
    assert report.sparsity == pytest.approx(0.75, abs=0.01) and report.step == 8
    list(train(task, trainer, 3, 8))
    assert trainer.step_count == 8
    assert float((task.model[2].weight == 0).float().mean()) < 0.2


def test_accumulated_and_clipped_gradients_count_once() -> None:
    task = mlp()
    trainer, optimizer = start(task, "rigl", sgd, every=3, sparsity=0.75)
    for step in range(12):
        for part in range(2):
            (task.loss(2 * step + part) / 2).backward()
        nn.utils.clip_grad_norm_(task.model.parameters(), 0.5)
        trainer.step()
        optimizer.zero_grad()
    assert trainer.step_count == 12
    assert (trainer.report().explored or 0) > 0.26


def test_autocast_and_a_gradient_scaler() -> None:
    task = mlp()
    trainer, optimizer = start(task, "rigl", every=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    losses = []
    for step in range(STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = task.loss(step)
        scaler.scale(loss).backward()
        trainer.step(scaler=scaler)
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < sum(losses[:4])
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)


def scaled(fused: bool, scale: float, runtime: str, overflow: int = -1) -> tuple[SparseTrainer, list[float]]:
    """Trains through a scaler; the loss of one step is infinite."""
    task = mlp()
    trainer, optimizer = start(
        task, "rigl", lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, fused=fused), every=4, runtime=runtime
    )
    scaler, losses = torch.amp.GradScaler("cpu", init_scale=scale), []
    for step in range(STEPS):
        loss = task.loss(step)
        before = [state.weight.parameter.detach().clone() for state in trainer.run.states]
        scaler.scale(loss * float("inf") if step == overflow else loss).backward()
        trainer.step(scaler=scaler)
        if step == overflow:
            after = [state.weight.parameter.detach() for state in trainer.run.states]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        scaler.update()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return trainer, losses


@pytest.mark.parametrize("runtime", ["dense", "sparse"])
def test_a_scaler_that_leaves_the_scale_to_a_fused_optimizer(runtime: str) -> None:
    """The masks, the corrections of grown weights and the losses are those of an optimizer that is not fused."""
    plain, expected = scaled(False, 2.0**16, runtime)
    fused, losses = scaled(True, 2.0**16, runtime)
    assert losses == pytest.approx(expected, rel=1e-4)
    for a, b in zip(plain.run.states, fused.run.states, strict=True):
        assert torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("overflow", [0, 4, 5])
def test_a_step_that_the_scaler_leaves_out_changes_and_counts_nothing(fused: bool, overflow: int) -> None:
    trainer, losses = scaled(fused, 64.0, "dense", overflow)
    assert trainer.step_count == STEPS - 1
    assert sum(losses[-4:]) < sum(losses[:4])


def test_a_scheduler_and_a_compiled_model() -> None:
    expected = mlp()
    trainer, optimizer = start(expected, "rigl", sgd, every=4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    task = mlp()
    model = torch.compile(task.model, backend="eager")
    compiled = Task(model, task.batches)
    other, second = start(compiled, "rigl", sgd, every=4)
    assert list(other.masks) == list(trainer.masks)
    again = torch.optim.lr_scheduler.CosineAnnealingLR(second, STEPS)
    for step in range(STEPS):
        for part, mine, plan in ((expected, trainer, schedule), (compiled, other, again)):
            part.loss(step).backward()
            mine.step()
            mine.zero_grad()
            plan.step()
    assert all(torch.equal(a, b) for a, b in zip(weights_of(task.model), weights_of(expected.model), strict=True))


def test_accelerate_counts_accumulated_steps_once() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    task = mlp()
    model, optimizer = accelerator.prepare(task.model, sgd(task.model))
    trainer = rarefy.sparse_training(model, optimizer, "rigl", sparsity=0.75, total_steps=STEPS, every=3)
    for step in range(2 * STEPS):
        with accelerator.accumulate(model):
            accelerator.backward(task.loss(step))
            trainer.step()
            optimizer.zero_grad()
    assert trainer.step_count == STEPS
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)


class Classifier(nn.Module):
    def __init__(self, task: Task) -> None:
        super().__init__()
        self.net = task.model

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def test_the_trainer_of_transformers_resumes_where_it_was(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    rows = [{"x": x, "labels": y} for xs, ys in mlp().batches for x, y in zip(xs, ys, strict=True)]

    def run(folder: Path, resume: str | None = None) -> tuple[nn.Module, Any]:
        model = Classifier(mlp())
        callback = rarefy.transformers_callback("rigl", sparsity=0.75, every=3)
        arguments = transformers.TrainingArguments(
            output_dir=str(folder),
            max_steps=16,
            save_steps=8,
            per_device_train_batch_size=16,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            learning_rate=1e-2,
            logging_steps=100,
        )
        made = transformers.Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[callback])
        made.train(resume_from_checkpoint=resume)
        return model, callback.trainer

    whole, trainer = run(tmp_path / "run")
    assert trainer.step_count == 16
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)
    assert float((whole.net[2].weight == 0).float().mean()) > 0.7
    again, trainer = run(tmp_path / "run", str(tmp_path / "run" / "checkpoint-8"))
    assert trainer.step_count == 16
    assert all(torch.equal(a, b) for a, b in zip(weights_of(again), weights_of(whole), strict=True))
    (tmp_path / "run" / "checkpoint-8" / "rarefy_trainer.pt").unlink()
    with pytest.raises(ModelError, match=r"is missing.*copy the folder that you resume from there"):
        run(tmp_path / "run", str(tmp_path / "run" / "checkpoint-8"))


def test_lightning_resumes_where_it_was(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.task = mlp()
            self.net = self.task.model

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return adam(self.net)

    data = torch.utils.data.TensorDataset(*(torch.cat(t) for t in zip(*mlp().batches, strict=True)))

    def run(epochs: int, checkpoint: Path | None = None) -> tuple[Any, Any, Any]:
        module, callback = Module(), rarefy.lightning_callback("rigl", sparsity=0.75, every=3, total_steps=16)
        made = lightning.Trainer(
            max_epochs=epochs,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        path = None if checkpoint is None else str(checkpoint)
        made.fit(module, torch.utils.data.DataLoader(data, 16), ckpt_path=path)
        return module, callback.trainer, made

    whole, trainer, _ = run(2)
    assert trainer.step_count == 16
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)
    _, _, first = run(1)
    first.save_checkpoint(tmp_path / "half.ckpt")
    again, trainer, _ = run(2, tmp_path / "half.ckpt")
    assert trainer.step_count == 16
    assert all(torch.equal(a, b) for a, b in zip(weights_of(again.net), weights_of(whole.net), strict=True))


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "robust-pai", "random-pruning"])
def test_methods_at_initialization_keep_their_mask(method: str) -> None:
    task = mlp()
    optimizer = sgd(task.model)
    trainer = rarefy.sparse_training(
        task.model,
        optimizer,
        method,
        sparsity=0.75,
        data=task.batches if method != "synflow" else [task.batches[0][0]],
        loss=(lambda model, batch: F.cross_entropy(model(batch[0]), batch[1])) if method != "synflow" else None,
    )
    masks = copy.deepcopy(trainer.masks)
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)
    list(train(task, trainer, 8))
    assert all(torch.equal(masks[name], mask) for name, mask in trainer.masks.items())
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)
    assert trainer.name == method


def test_bad_arguments_say_what_to_do() -> None:
    def call(model: nn.Module, optimizer: Any = None, method: Any = "rigl", **more: Any) -> None:
        optimizer = optimizer or sgd(model)
        rarefy.sparse_training(model, optimizer, method, **{"sparsity": 0.9, "total_steps": 100, **more})

    model = mlp().model
    before = weights_of(model)
    other = nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"none of the optimizer's groups; make the optimizer of model\.parameters"):
        call(model, sgd(other))
    with pytest.raises(SparsityError, match="total_steps is missing"):
        call(model, total_steps=None)
    with pytest.raises(SparsityError, match="not a positive whole number"):
        call(model, total_steps=0)
    with pytest.raises(SparsityError, match="leaves none of its"):
        call(model, sparsity=0.9999, allocation="uniform")
    with pytest.raises(SparsityError, match=r"did you mean 0\.9"):
        call(model, sparsity=90)
    with pytest.raises(SparsityError, match="missing"):
        call(model, sparsity=None)
    with pytest.raises(SparsityError, match="contradicts"):
        call(model, pattern="2:4")
    with pytest.raises(UnknownNameError, match="did you mean 'rigl'"):
        call(model, method="rigel")
    with pytest.raises(UnknownNameError, match="has no option 'evry'"):
        call(model, evry=3)
    with pytest.raises(SparsityError, match="looks at data"):
        call(model, allocation="owl")
    with pytest.raises(ModelError, match="matches no layer"):
        call(model, ignore=["head"])
    with pytest.raises(ModelError, match=r"LBFGS looks at the loss.*train with one that moves them once a step"):
        call(model, torch.optim.LBFGS(model.parameters()))
    with pytest.raises(ModelError, match=r"is no torch\.optim\.Optimizer and holds none; give"):
        call(model, object())
    with pytest.raises(ModelError, match="nothing to train sparse"):
        call(nn.LayerNorm(4))
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True))


def test_changing_batch_sizes_and_layers_that_a_step_does_not_use() -> None:
    task = mlp()
    unused = nn.ModuleDict({"net": task.model, "idle": nn.Linear(8, 8)})
    optimizer = adam(unused)
    trainer = rarefy.sparse_training(unused, optimizer, "rigl", sparsity=0.75, total_steps=20, every=2)
    for step in range(20):
        x, y = task.batches[step % 4]
        size = 1 + 3 * step % 17
        F.cross_entropy(task.model(x[:size]), y[:size]).backward()
        trainer.step()
        trainer.zero_grad()
    assert trainer.sparsity == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("runtime", ["dense", "sparse"])
def test_a_layer_that_was_replaced_is_an_error_of_the_next_step(runtime: str) -> None:
    task = mlp()
    settings = {"sparsity": 0.75, "total_steps": 20, "every": 2, "runtime": runtime}
    trainer = rarefy.sparse_training(task.model, adam(task.model), "rigl", **settings)
    list(train(task, trainer, 3))
    task.model[4] = nn.Linear(64, 8)
    with pytest.raises(ModelError, match=r"step 3: 4 is not in the model any more.*make the optimizer and the trainer"):
        list(train(task, trainer, 1, first=3))


def test_ignored_and_frozen_layers_stay_as_they_are() -> None:
    task = recurrent()
    task.model.head.weight.requires_grad_(False)
    trainer, _ = start(task, "rigl", every=4, ignore=["rnn.weight_hh_l0"])
    assert list(trainer.masks) == ["rnn.weight_ih_l0"]
    list(train(task, trainer, 8))
    assert int((task.model.rnn.weight_hh_l0 == 0).sum()) == 0


def test_a_gradient_in_no_layer_that_is_trained_sparse_is_checked_too() -> None:
    task = mlp()
    trainer, _ = start(task, "rigl")
    task.loss(0).backward()
    task.model[0].bias.grad[0] = float("inf")
    with pytest.raises(DataError, match=r"0\.bias is not finite"):
        trainer.step()


def test_a_second_trainer_on_one_optimizer_is_refused_until_the_first_is_detached() -> None:
    task = mlp()
    trainer, optimizer = start(task, "rigl", every=4)
    list(train(task, trainer, 3))
    before, masks = weights_of(task.model), trainer.masks
    with pytest.raises(ModelError, match=r"a sparse trainer \('rigl', step 3\) is at work on it already.*detach"):
        rarefy.sparse_training(task.model, optimizer, "set", sparsity=0.5)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(task.model), strict=True))
    list(train(task, trainer, 6, 3))
    assert trainer.step_count == 9 and any(not torch.equal(masks[n], m) for n, m in trainer.masks.items())
    trainer.detach()
    second = rarefy.sparse_training(task.model, optimizer, "set", sparsity=0.5)
    list(train(task, second, 3, 9))
    assert second.step_count == 3


def test_a_trainer_that_could_not_begin_leaves_the_optimizer_free() -> None:
    task = mlp()
    made = adam(task.model)
    with pytest.raises(ModelError, match="no state of a sparse trainer"):
        rarefy.sparse_training(task.model, made, "set", sparsity=0.5, state={})
    list(train(task, rarefy.sparse_training(task.model, made, "set", sparsity=0.5), 2))


def test_the_state_of_the_generator_may_be_a_view_into_a_file() -> None:
    """As `read_state` gives it: torch itself would read other bytes, or crash."""
    trainer, _ = start(mlp(), "set", every=4)
    saved = trainer.state_dict()
    record = torch.cat([torch.zeros(1, dtype=torch.uint8), saved["generator"]])
    other, _ = start(mlp(), "set", every=4)
    torch.rand(3, generator=other.run.generator)
    other.load_state_dict({**saved, "generator": record[1:]})
    assert torch.equal(other.run.generator.get_state(), trainer.run.generator.get_state())
