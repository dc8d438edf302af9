"""Training on the kept values only: the same masks and losses as dense training with masks, from the same two lines."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rarefy
from rarefy.core.errors import DataError, EngineError, ModelError, UnknownNameError
from rarefy.ops import available
from rarefy.training.runtime import Speed
from rarefy.training.switching import Switching
from training import loops
from training.runs import METHODS, in_both, run

needs_native = pytest.mark.skipif(not available(), reason="the native module is not built")
pytestmark = needs_native


@pytest.mark.parametrize("optimizer", [loops.adam, loops.sgd])
@pytest.mark.parametrize("method", METHODS)
def test_masks_and_losses_are_those_of_dense_training(method: str, optimizer: Any) -> None:
    dense, plain, _, _ = run(method, "dense", optimizer=optimizer)
    sparse, packed, _, task = run(method, "sparse", optimizer=optimizer)
    assert all(said in ("sparse", "dense: nothing is dropped yet") for said in packed.runtime.values())
    assert "sparse" in packed.runtime.values()
    assert sparse == pytest.approx(dense, rel=2e-4)
    for name, mask in plain.masks.items():
        assert torch.equal(mask, packed.masks[name])
    weight = task.model[0].weight
    assert weight.dim() == 1 and weight.numel() == int(packed.masks["0"].sum())


@pytest.mark.parametrize("method", ["rigl", "gmp-zhu-gupta"])
def test_convolutions_too(method: str) -> None:
    dense, plain, _, _ = run(method, "dense", loops.convnet, steps=24, optimizer=loops.sgd)
    sparse, packed, _, _ = run(method, "sparse", loops.convnet, steps=24, optimizer=loops.sgd)
    assert sparse == pytest.approx(dense, rel=1e-3)
    assert all(torch.equal(mask, packed.masks[name]) for name, mask in plain.masks.items())


def test_losses_agree_over_two_hundred_steps() -> None:
    dense, *_ = run("static", "dense", steps=200, optimizer=loops.sgd, total_steps=200)
    sparse, *_ = run("static", "sparse", steps=200, optimizer=loops.sgd, total_steps=200)
    assert sparse == pytest.approx(dense, rel=1e-3, abs=1e-5)


def test_only_kept_values_have_gradients_and_optimizer_memory() -> None:
    _, trainer, optimizer, task = run("rigl", "sparse")
    state = optimizer.state[task.model[2].weight]
    kept = int(trainer.masks["2"].sum())
    assert state["exp_avg"].shape == state["exp_avg_sq"].shape == (kept,)
    assert kept == round(0.2 * 64 * 64) or kept < 64 * 64 // 2


def test_state_dicts_are_dense_and_go_on_bit_for_bit() -> None:
    whole, *_ = run("rigl", "sparse", steps=36)
    first, trainer, optimizer, task = run("rigl", "sparse", steps=20)
    saved = copy.deepcopy((task.model.state_dict(), optimizer.state_dict(), trainer.state_dict()))
    assert saved[0]["0.weight"].shape == (64, 16)
    assert torch.equal(saved[0]["0.weight"] != 0, saved[0]["0.weight"] != 0 & trainer.masks["0"])
    other = loops.mlp(seed=5)
    again = loops.adam(other.model)
    other.model.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    options = {"total_steps": 48, "sparsity": 0.8, **METHODS["rigl"]}
    resumed = rarefy.sparse_training(other.model, again, "rigl", runtime="sparse", state=saved[2], **options)
    rest = list(loops.train(other, resumed, 16, first=20))
    assert first + rest == whole


def test_a_checkpoint_loads_into_a_run_that_is_packed() -> None:
    _, trainer, optimizer, task = run("rigl", "sparse", steps=20)
    saved = copy.deepcopy((task.model.state_dict(), optimizer.state_dict(), trainer.state_dict()))
    ahead = list(loops.train(task, trainer, 10, first=20))
    task.model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    trainer.load_state_dict(saved[2])
    assert list(loops.train(task, trainer, 10, first=20)) == ahead


def test_a_dense_run_goes_on_from_a_packed_one_and_back() -> None:
    _, trainer, optimizer, task = run("rigl", "sparse", steps=20)
    saved = copy.deepcopy((task.model.state_dict(), optimizer.state_dict(), trainer.state_dict()))
    ahead = list(loops.train(task, trainer, 10, first=20))
    other = loops.mlp(seed=5)
    again = loops.adam(other.model)
    other.model.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    options = {"total_steps": 48, "sparsity": 0.8, **METHODS["rigl"]}
    resumed = rarefy.sparse_training(other.model, again, "rigl", state=saved[2], **options)
    assert list(loops.train(other, resumed, 10, first=20)) == pytest.approx(ahead, rel=2e-4)


def test_copies_and_detaching_give_ordinary_layers() -> None:
    _, trainer, _, task = run("rigl", "sparse")
    x = task.batches[0][0]
    twin = copy.deepcopy(task.model)
    assert type(twin[0]) is nn.Linear and twin[0].weight.shape == (64, 16)
    first, before = twin(x), task.model(x)
    assert torch.allclose(first, before, atol=1e-5)
    masks = trainer.masks
    trainer.detach()
    assert type(task.model[0]) is nn.Linear and task.model[0].weight.shape == (64, 16)
    assert torch.allclose(task.model(x), before, atol=1e-5)
    assert bool((task.model[2].weight[~masks["2"]] == 0).all())
    assert torch.equal(twin(x), first)
    twin.load_state_dict(task.model.state_dict())
    assert torch.equal(twin[0].weight, task.model[0].weight)


@pytest.mark.parametrize("task", [loops.mlp, loops.convnet])
def test_a_running_average_is_that_of_dense_training_or_an_error(task: Callable[[], loops.Task]) -> None:
    """Packed values change their places, so values with values would average different weights."""
    found = {}
    for runtime in ("dense", "sparse"):
        made = task()
        settings: dict[str, Any] = {"total_steps": 48, "sparsity": 0.8, "every": 4, "runtime": runtime}
        trainer = rarefy.sparse_training(made.model, loops.sgd(made.model), "rigl", **settings)
        average = AveragedModel(made.model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        for step in range(12):
            list(loops.train(made, trainer, 1, first=step))
            if runtime == "sparse":
                assert "sparse" in trainer.runtime.values()
                with pytest.raises(RuntimeError, match="size of tensor"):
                    AveragedModel(made.model).update_parameters(made.model)
            trainer.unpack()
            average.update_parameters(made.model)
        found[runtime] = average.module.state_dict()
    for name, value in found["dense"].items():
        assert torch.allclose(value, found["sparse"][name], atol=1e-4), name


def test_averages_of_state_dicts_need_nothing() -> None:
    """As some libraries keep them: in place, in the state dict of a copy."""
    _, trainer, _, task = run("rigl", "sparse", steps=4)
    average = copy.deepcopy(task.model)
    list(loops.train(task, trainer, 8, first=4))
    for held, new in zip(average.state_dict().values(), task.model.state_dict().values(), strict=True):
        held.copy_(new)
    x = task.batches[0][0]
    assert torch.allclose(average(x), task.model(x), atol=1e-5)


def test_values_that_torch_would_spread_over_a_copy_stay_dense() -> None:
    """Ten rows at 90 %: as many values as a row has entries, which torch copies into every row without an error."""
    model = nn.Linear(40, 10)
    trainer = rarefy.sparse_training(model, loops.adam(model), "static", sparsity=0.9, runtime="sparse")
    assert next(iter(trainer.runtime.values())).startswith("dense: it keeps one value or as many")
    AveragedModel(model).update_parameters(model)


def test_accumulated_gradients_count_for_growth() -> None:
    found = {}
    for runtime, task, _, trainer in in_both("rigl", every=4):
        for step in range(12):
            for half in (0, 1):
                x, y = task.batches[(2 * step + half) % 4]
                (nn.functional.cross_entropy(task.model(x[half::2]), y[half::2]) / 2).backward()
            trainer.step()
            trainer.zero_grad()
        found[runtime] = trainer.masks
    assert all(torch.equal(found["dense"][name], found["sparse"][name]) for name in found["dense"])


def test_gradients_that_are_not_finite_leave_the_packed_state_alone() -> None:
    _, trainer, _, task = run("rigl", "sparse")
    before = copy.deepcopy(task.model.state_dict())
    loss = task.loss(0) * float("nan")
    loss.backward()
    with pytest.raises(DataError, match="not finite"):
        trainer.step()
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_auto_takes_what_was_measured_and_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, float]] = []

    def measured(layer: Any, images: int, density: float) -> Speed:
        asked.append((images, density))
        return Speed(1.0, 0.5 if images >= 32 else 2.0)

    monkeypatch.setattr("rarefy.training.switching.faster", measured)
    task = loops.mlp()
    trainer = rarefy.sparse_training(task.model, loops.adam(task.model), "static", sparsity=0.9, runtime="auto")
    assert set(trainer.runtime.values()) == {"dense: not measured to be faster"}
    list(loops.train(task, trainer, 2))
    assert set(trainer.runtime.values()) == {"sparse"}
    count = len(asked)
    list(loops.train(task, trainer, 2))
    assert len(asked) == count  # the same question is not asked twice
    task.batches = [(x[:8], y[:8]) for x, y in task.batches]
    list(loops.train(task, trainer, 2))
    assert all(said.startswith("dense") for said in trainer.runtime.values())
    assert task.model[0].weight.shape == (64, 16)


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("top-kast", {"sparsity": 0.8}, "every step"),
        ("sr-ste", {"pattern": "2:4", "sparsity": None}, "every step"),
        ("deep-rewiring", {"sparsity": 0.8}, "may exchange weights after every step"),
    ],
)
def test_methods_that_need_dense_weights_stay_dense_and_say_so(method: str, options: dict[str, Any], why: str) -> None:
    _, trainer, _, _ = run(method, "sparse", steps=2, **options)
    assert all(said.startswith("dense: ") and why in said for said in trainer.runtime.values())


def test_layers_without_kernels_stay_dense_and_say_so() -> None:
    task = loops.recurrent()
    trainer = rarefy.sparse_training(task.model, loops.adam(task.model), "static", sparsity=0.8, runtime="sparse")
    assert trainer.runtime["head"] == "sparse"
    assert trainer.runtime["rnn.weight_ih_l0"].startswith("dense: ")
    list(loops.train(task, trainer, 2))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_is_evaluated_as_it_was_trained(activation: str) -> None:
    """In evaluation torch takes a shortcut that reads the weights of its linears itself."""
    task = loops.transformer()
    task.model.block = nn.TransformerEncoderLayer(16, 2, 32, 0.0, activation, batch_first=True)
    optimizer, settings = loops.adam(task.model), {"sparsity": 0.8, "total_steps": 40, "every": 5}
    trainer = rarefy.sparse_training(task.model, optimizer, "rigl", runtime="sparse", **settings)
    list(loops.train(task, trainer, 10))
    assert trainer.runtime["block.linear1"] == trainer.runtime["block.linear2"] == "sparse"
    x = task.batches[0][0]
    trained = task.model(x).detach()
    task.model.eval()
    with torch.no_grad():
        assert torch.allclose(task.model(x), trained, atol=1e-5)
        stack = nn.TransformerEncoder(task.model.block, 2)
        stack.layers[0] = task.model.block
        assert stack.eval()(x, src_key_padding_mask=torch.zeros(32, 6, dtype=torch.bool)).shape == x.shape
        trainer.detach()
        assert task.model.block.activation_relu_or_gelu == {"relu": 1, "gelu": 2}[activation]
        assert torch.allclose(task.model(x), trained, atol=1e-5)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("method", ["rigl", "dst-ee"])
def test_a_batch_that_was_skipped_does_not_count_for_growth(method: str, to_none: bool) -> None:
    """Its gradient was cleared before the step: what was watched of it has to go too."""
    found = {}
    for runtime, task, optimizer, trainer in in_both(method, every=4):
        for step in range(10):
            (1e3 * task.loss(step + 1)).backward()
            optimizer.zero_grad(set_to_none=to_none)
            task.loss(step).backward()
            trainer.step()
            optimizer.zero_grad(set_to_none=to_none)
        found[runtime] = trainer.masks
    assert all(torch.equal(found["dense"][name], found["sparse"][name]) for name in found["dense"])


@pytest.mark.parametrize(
    ("method", "more"),
    [("rigl", {"instead": False}), ("dst-ee", {}), ("blast-block-sparse", {"pattern": "block:4x4"})],
)
def test_a_gradient_that_was_scaled_since_is_scaled_for_new_weights_too(method: str, more: dict[str, Any]) -> None:
    """As a scaler of the loss or clipping does, between the backward pass and a step at which masks change."""
    found = {}
    for runtime, task, optimizer, trainer in in_both(method, **{"every": 4, **more}):
        for step in range(14):
            (256.0 * task.loss(step)).backward()
            for parameter in task.model.parameters():
                parameter.grad /= 256.0
            trainer.step()
            optimizer.zero_grad()
        found[runtime] = (trainer.masks, task.model.state_dict())
    for name, mask in found["dense"][0].items():
        assert torch.equal(mask, found["sparse"][0][name])
    for name, value in found["dense"][1].items():
        assert torch.allclose(value, found["sparse"][1][name], atol=1e-5)


@pytest.mark.parametrize("runtime", ["dense", "sparse"])
@pytest.mark.parametrize(("method", "steps"), [("static", 3), ("rigl", 5), ("rigl", 6), ("gmp-zhu-gupta", 30)])
def test_a_norm_of_gradients_has_no_part_from_dropped_weights(method: str, steps: int, runtime: str) -> None:
    """At steps that look at dense gradients (every sixth of RigL's) as at others."""
    _, trainer, _, task = run(method, runtime, steps=steps)
    twin = copy.deepcopy(task.model)  # of which no trainer knows: its gradient is dense
    for micro in range(2):
        task.loss(micro).backward()
        loops.Task(twin, task.batches).loss(micro).backward()
    found = torch.nn.utils.clip_grad_norm_(task.model.parameters(), 1e9)
    squares = 0.0
    for name, parameter in twin.named_parameters():
        grad = parameter.grad
        mask = trainer.masks.get(name.removesuffix(".weight")) if name.endswith("weight") else None
        squares += float((grad if mask is None else grad * mask.view(grad.shape)).square().sum())
    whole = float(sum(parameter.grad.square().sum() for parameter in twin.parameters()))
    assert float(found) == pytest.approx(squares**0.5, rel=1e-4)
    assert whole > 1.5 * squares, "the dense gradient is another one"


@pytest.mark.parametrize("method", ["rigl", "set", "dst-ee", "srigl", "static", "gmp-zhu-gupta"])
def test_clipped_and_summed_gradients_give_the_same_weights_in_both_runtimes(method: str) -> None:
    found = {}
    for runtime, task, optimizer, trainer in in_both(method, **METHODS[method]):
        for step in range(30):
            for micro in range(2):
                (task.loss(2 * step + micro) / 2).backward()
            torch.nn.utils.clip_grad_norm_(task.model.parameters(), 0.1)
            trainer.step()
            optimizer.zero_grad()
        found[runtime] = (trainer.masks, task.model.state_dict())
    for name, mask in found["dense"][0].items():
        assert torch.equal(mask, found["sparse"][0][name])
    for name, value in found["dense"][1].items():
        assert torch.allclose(value, found["sparse"][1][name], atol=1e-4)


def test_gradients_are_whole_again_when_the_trainer_lets_go() -> None:
    _, trainer, _, task = run("rigl", "dense", steps=6)
    trainer.detach()
    task.loss(6).backward()
    assert int((task.model[2].weight.grad != 0).sum()) > 2 * int((task.model[2].weight != 0).sum())


def test_a_packed_model_is_copied_and_pickled_between_backward_and_step() -> None:
    _, _, _, task = run("rigl", "sparse", steps=6)  # the next step changes masks, so the gradient is watched
    task.loss(6).backward()
    file = io.BytesIO()
    torch.save(task.model, file)
    file.seek(0)
    x = task.batches[0][0]
    read = torch.load(file, weights_only=False)
    assert torch.equal(read(x), task.model(x))
    assert read[0].packing.watch is None
    assert torch.allclose(copy.deepcopy(task.model)(x), task.model(x), atol=1e-5)


def test_auto_asks_again_after_everything_was_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.training.switching.faster", lambda layer, images, density: Speed(2.0, 1.0))
    task = loops.mlp()
    trainer = rarefy.sparse_training(task.model, loops.adam(task.model), "static", sparsity=0.9, runtime="auto")
    list(loops.train(task, trainer, 2))
    trainer.unpack()
    assert task.model[0].weight.shape == (64, 16)
    list(loops.train(task, trainer, 2))
    assert set(trainer.runtime.values()) == {"sparse"}


def test_auto_goes_on_from_a_checkpoint_with_the_answers_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings of another run may differ: the losses are the same bit for bit all the same."""
    ratio = {64: 2.0, 10: 0.5}
    measured = lambda layer, images, density: Speed(ratio.get(layer.out, 1.0), 1.0)  # noqa: E731
    monkeypatch.setattr("rarefy.training.switching.faster", measured)
    task = loops.mlp()
    optimizer = loops.adam(task.model)
    begin = lambda model, optimizer, **more: rarefy.sparse_training(  # noqa: E731
        model, optimizer, "rigl", sparsity=0.9, every=4, total_steps=40, runtime="auto", **more
    )
    trainer = begin(task.model, optimizer)
    list(loops.train(task, trainer, 10))
    assert {said.split(":")[0] for said in trainer.runtime.values()} == {"sparse", "dense"}
    saved = copy.deepcopy([task.model.state_dict(), optimizer.state_dict(), trainer.state_dict()])
    faces, losses = trainer.runtime, list(loops.train(task, trainer, 10))

    def never(*_: Any, **__: Any) -> Speed:
        raise AssertionError("measured again")

    monkeypatch.setattr("rarefy.training.switching.faster", never)
    other = loops.mlp()
    other.model.load_state_dict(saved[0])
    second = loops.adam(other.model)
    second.load_state_dict(saved[1])
    resumed = begin(other.model, second, state=saved[2])
    assert resumed.runtime == faces
    assert list(loops.train(other, resumed, 10)) == losses
    saved[2]["measured"] = {"0": "fast"}
    with pytest.raises(ModelError, match="what was measured has no sizes"):
        resumed.load_state_dict(saved[2])


def test_an_unknown_runtime_is_refused_and_nothing_has_changed() -> None:
    task = loops.mlp()
    before = copy.deepcopy(task.model.state_dict())
    with pytest.raises(UnknownNameError, match="runtime"):
        rarefy.sparse_training(task.model, loops.adam(task.model), "static", sparsity=0.8, runtime="fast")
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


class Doubled(torch.optim.SGD):
    """Somebody's own optimizer, which may look at whole matrices."""


def test_optimizers_that_are_not_known_stay_dense_and_it_is_said() -> None:
    task = loops.mlp()
    options = {"sparsity": 0.8, "runtime": "sparse"}
    trainer = rarefy.sparse_training(task.model, Doubled(task.model.parameters(), lr=0.1), "static", **options)
    assert all("Doubled" in said for said in trainer.runtime.values())


def test_the_switch_is_described_where_nothing_is_asked_of_it() -> None:
    _, trainer, _, _ = run("static", "dense", steps=1)
    assert set(trainer.runtime.values()) == {"dense: runtime='dense'"}
    assert isinstance(trainer._switching, Switching)


def test_second_derivatives_are_those_of_the_unpacked_layers() -> None:
    """As the error says, and the step after packs again."""
    task = loops.mlp()
    trainer = rarefy.sparse_training(
        task.model, loops.sgd(task.model), "static", sparsity=0.8, total_steps=9, runtime="sparse"
    )
    x = task.batches[0][0].clone().requires_grad_(True)
    with pytest.raises(EngineError, match=r"trainer\.unpack\(\) before the forward pass"):
        torch.autograd.grad(task.model(x).square().sum(), x, create_graph=True)
    trainer.unpack()
    (slope,) = torch.autograd.grad(task.model(x).square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    trainer.step()
    assert set(trainer.runtime.values()) == {"sparse"}
