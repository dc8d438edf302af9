"""Methods that prune at the start: every trained weight gets its zeros, or a word says why it does not."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import DataError, ModelError, RarefyError
from rarefy.core.topk import exact_count, keep_top
from rarefy.scores.random import Random
from training import loops

METHODS = ["snip", "grasp", "synflow", "robust-pai", "magnitude", "random-pruning", "gradient", "movement", "obd"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True, kdim=16, vdim=8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.attention(x, x, x[..., :8])[0].mean(1))
        return out


def attention() -> loops.Task:
    torch.manual_seed(0)
    return loops.Task(Attention(), loops.transformer().batches)


def convolutions() -> loops.Task:
    torch.manual_seed(0)
    layers = [nn.Conv1d(6, 16, 3), nn.ReLU(), nn.ConvTranspose1d(16, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8)]
    return loops.Task(nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 8)), loops.recurrent().batches)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def begun(task: loops.Task, method: str = "snip", **options: Any) -> Any:
    arguments = {"sparsity": 0.8, "data": task.batches, "loss": loss, **options}
    return rarefy.sparse_training(task.model, loops.adam(task.model), method, **arguments)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [loops.recurrent, loops.transformer, attention, convolutions, loops.grouped])
def test_every_trained_weight_is_pruned_to_the_asked_density(make: Callable[[], loops.Task], method: str) -> None:
    task = make()
    trainer = begun(task, method)
    states = trainer.run.states
    names = [name for name, p in task.model.named_parameters() if p.dim() > 1]
    assert {state.name for state in states} == {name.removesuffix(".weight") for name in names}
    assert all(0 < state.kept < state.size for state in states)
    size, kept = sum(state.size for state in states), sum(state.kept for state in states)
    assert abs(kept - 0.2 * size) <= len(states) / 2
    list(loops.train(task, trainer, 3))
    for state in states:
        assert bool((state.value()[~state.mask] == 0).all()) and bool(state.value()[state.mask].any())


def test_recurrent_weights_compete_by_the_sensitivity_of_the_loss() -> None:
    task, other = loops.recurrent(), loops.recurrent().model
    value = torch.stack([loss(other, batch) for batch in task.batches]).mean()
    weights = [p for p in other.parameters() if p.dim() > 1]
    grads = torch.autograd.grad(value, weights)
    scores = torch.cat([(w * g).abs().flatten() for w, g in zip(weights, grads, strict=True)])
    expected = keep_top(scores.detach()[None], exact_count(len(scores), 0.2))[0]
    found = torch.cat([mask.flatten() for mask in begun(task).masks.values()])
    assert int((found != expected).sum()) <= 2  # sums in another order


def test_frozen_and_ignored_weights_stay_dense() -> None:
    task = loops.recurrent()
    task.model.rnn.weight_hh_l0.requires_grad_(False)
    trainer = begun(task, "magnitude", ignore=["head"])
    assert set(trainer.masks) == {"rnn.weight_ih_l0"}
    assert bool((task.model.rnn.weight_hh_l0 != 0).all()) and bool((task.model.head.weight != 0).all())


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_methods_that_look_at_inputs_say_which_weights_they_cannot_see(method: str) -> None:
    task = loops.recurrent()
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    with pytest.raises(ModelError, match=r"rnn\.weight_ih_l0.*ignore=\['rnn\.weight_ih_l0', 'rnn\.weight_hh_l0'\]"):
        begun(task, method)
    assert all(map(torch.equal, task.model.parameters(), before))
    trainer = begun(task, method, ignore=["rnn.weight_ih_l0", "rnn.weight_hh_l0"])
    assert trainer.sparsity == pytest.approx(0.8, abs=0.02)


def test_missing_data_and_loss_are_told() -> None:
    with pytest.raises(DataError, match="snip: needs calibration data"):
        begun(loops.mlp(), data=None)
    with pytest.raises(DataError, match="give loss="):
        begun(loops.mlp(), loss=None)


class Starved(nn.Module):
    """A net with a branch of such small weights that all others matter more to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 8)
        with torch.no_grad():
            self.branch.weight.mul_(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        out: Tensor = self.head(x + self.branch(x))
        return out


def starved() -> loops.Task:
    torch.manual_seed(0)
    return loops.Task(Starved(), loops.mlp().batches)


@pytest.mark.parametrize("method", ["snip", "grasp", "robust-pai", "woodfisher"])
def test_a_layer_that_would_be_emptied_keeps_its_best_weight_and_is_named(method: str) -> None:
    task = starved()
    dense = task.model.branch.weight.detach().clone()
    with pytest.warns(UserWarning, match="one weight is left of branch,"):
        trainer = begun(task, method, sparsity=0.9)
    assert trainer.run["branch"].kept == 1
    kept, size = (sum(number(state) for state in trainer.run.states) for number in (_kept, _size))
    assert abs(kept - exact_count(size, 0.1)) <= (method == "woodfisher")
    assert bool((dense[trainer.masks["branch"]] != 0).all())


def _kept(state: Any) -> int:
    return int(state.kept)


def _size(state: Any) -> int:
    return int(state.size)


def test_the_weight_that_is_kept_has_the_best_score() -> None:
    task, other = starved(), starved().model
    weight = other.branch.weight
    value = torch.stack([loss(other, batch) for batch in task.batches]).mean()
    score = (weight * torch.autograd.grad(value, [weight])[0]).abs().detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = begun(task, sparsity=0.9).masks["branch"]
    assert bool((score[mask] >= 0.999 * score.max()).all())


@pytest.mark.parametrize(
    "wrong",
    [
        {"total_steps": -1},
        {"runtime": "fast"},
        {"method": "magnitude", "pattern": "rowwise", "sparsity": 0.999},
        {"method": "robust-pai", "pattern": "rowwise", "sparsity": 0.99},
    ],
)
def test_a_start_that_fails_leaves_the_model_as_it_was(wrong: dict[str, Any]) -> None:
    task = loops.mlp()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    with pytest.raises(RarefyError):
        begun(task, **wrong)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


def test_weights_of_another_optimizer_are_refused_before_they_are_lost() -> None:
    task = loops.mlp()
    before = {name: value.clone() for name, value in task.model.state_dict().items()}
    optimizer = torch.optim.SGD(task.model[0].parameters(), lr=0.1)
    with pytest.raises(ModelError, match=re.escape("in none of the optimizer's groups")):
        rarefy.sparse_training(task.model, optimizer, "snip", sparsity=0.8, data=task.batches, loss=loss)
    assert all(torch.equal(value, before[name]) for name, value in task.model.state_dict().items())


@pytest.mark.parametrize("method", ["snip", "grasp", "synflow", "robust-pai"])
def test_a_small_bert(method: str) -> None:
    transformers = pytest.importorskip("transformers")

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "max_position_embeddings": 32}
    config = transformers.BertConfig(num_hidden_layers=2, num_attention_heads=4, **sizes)
    model = transformers.BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(1, 64, (8, 12)), "labels": torch.randint(2, (8,))}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer = rarefy.sparse_training(
            model,
            loops.adam(model),
            method,
            sparsity=0.8,
            total_steps=10,
            data=[batch],
            loss=lambda model, batch: model(**batch).loss,
        )
    assert trainer.sparsity == pytest.approx(0.8, abs=1e-4)
    lonely = {state.name for state in trainer.run.states if state.kept == 1}
    said = " ".join(str(warning.message) for warning in told)
    assert all(name in said for name in lonely) and (lonely or "one weight is left" not in said)


LAYERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.ConvTranspose1d(6, 16, 5), (6, 12)),
    (lambda: nn.ConvTranspose1d(12, 4, 4, stride=2, groups=2), (12, 12)),
    (lambda: nn.ConvTranspose2d(3, 8, (4, 6), stride=(2, 3)), (3, 6, 6)),
    (lambda: nn.Conv1d(6, 16, 3, groups=2), (6, 12)),
    (lambda: nn.Linear(12, 5), (12,)),
]


@pytest.mark.parametrize(("make", "size"), LAYERS)
def test_what_leaves_a_pruned_layer_has_the_second_moment_that_was_asked_for(
    make: Callable[[], nn.Module], size: tuple[int, ...]
) -> None:
    """Of white inputs: by the derivative of each output that lies inside with respect to all inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(make())
    rarefy.sparse_training(model, loops.sgd(model), "robust-pai", sparsity=0.6, moment=1.7, score=Random())
    slopes = torch.autograd.functional.jacobian(model, torch.zeros(size))
    moments = slopes.square().flatten(len(size)).sum(-1)  # (channels, *places)
    inside = moments[(slice(None), *[slice(4, 10)] * (len(size) - 1))]  # whole periods of the strides
    assert float(inside.mean()) == pytest.approx(1.7, rel=1e-4)
