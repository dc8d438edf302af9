"""Tasks after tasks in one backbone: nothing forgotten, exact densities, and what the scores mean."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError, UnknownNameError
from rarefy.training.begin import begin
from rarefy.training.cl_dst import GROWTHS, continual_training, ratios_for
from rarefy.training.continual_scores import ContinualScores
from rarefy.training.continual_tasks import Continual, Stage
from rarefy.training.static import static

STEPS = 40
Learn = Callable[[nn.Module, list[nn.Module], Callable[[nn.Module, Any], None]], list[Callable[[], nn.Module]]]


def split(tasks: int = 3, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Two digits a task, labels 0 and 1."""
    x, y = digits(600, seed)
    return [(x[y // 2 == t], y[y // 2 == t] % 2) for t in range(tasks)]


def backbone(seed: int = 0, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 48), *([nn.BatchNorm1d(48)] if norm else []), nn.ReLU(), nn.Linear(48, 48), nn.ReLU()]
    return nn.Sequential(*layers)


def trainer_of(data: list[tuple[Tensor, Tensor]], steps: int = STEPS, look: Any = None, decay: float = 1e-2) -> Any:
    def train(model: nn.Module, stage: Stage) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)
        trainer = stage.attach(optimizer)
        x, y = data[stage.index]
        order = torch.Generator().manual_seed(stage.seed)
        model.train()
        for _ in range(steps):
            at = torch.randint(len(x), (32,), generator=order)
            F.cross_entropy(model(x[at]), y[at]).backward()
            trainer.step()
            optimizer.zero_grad()
            if look is not None:
                look(trainer, stage.index)

    return train


def learn(growth: str = "random", look: Any = None, sparsity: float = 0.8, **more: Any) -> Continual:
    torch.manual_seed(0)
    heads = [nn.Linear(48, 2) for _ in range(3)]
    train = trainer_of(split(), look=look)
    settings = {"sparsity": sparsity, "total_steps": STEPS, "growth": growth, "every": 8, **more}
    return continual_training(backbone(), heads, train, **settings)


@torch.no_grad()
def right(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).double().mean())


def by_method(net: nn.Module, heads: list[nn.Module], train: Any) -> list[Tensor]:
    found: list[Tensor] = []
    x = split()[0][0]

    def look_back(model: nn.Module, task: int) -> float:
        if task == 0:
            with torch.no_grad():
                found.append(model.eval()(x))
        return 0.0

    continual_training(net, heads, train, sparsity=0.8, total_steps=STEPS, every=8, evaluate=look_back)
    return found


def one_mask_for_all(net: nn.Module, heads: list[nn.Module], train: Any) -> list[Tensor]:
    found = []
    for index in range(3):
        model = nn.Sequential(net, heads[index])
        stage = Stage(index, index, lambda optimizer: begin(net, optimizer, static(), sparsity=0.8))
        train(model, stage)
        stage.attached[0].detach()
        with torch.no_grad():
            found.append(nn.Sequential(net, heads[0]).eval()(split()[0][0]))
    return found


def test_the_logits_of_the_first_task_stay_bit_for_bit() -> None:
    def check(way: Any) -> None:
        torch.manual_seed(0)
        found = way(backbone(), [nn.Linear(48, 2) for _ in range(3)], trainer_of(split()))
        assert len(found) == 3 and all(torch.equal(logits, found[0]) for logits in found)

    assert_beats_impostor(check, by_method, one_mask_for_all)


@pytest.mark.parametrize("growth", [*GROWTHS, "static"])
def test_every_task_has_exactly_its_density_at_every_step_and_the_union_is_the_capacity(growth: str) -> None:
    moved = []

    def look(trainer: Any, task: int) -> None:
        assert [s.kept for s in trainer.run.states] == [s.count for s in trainer.run.states]
        moved.append(trainer.masks["0"].clone())

    found = learn(growth, look)
    union = {name: torch.zeros_like(mask) for name, mask in found.frozen.items()}
    fresh = 0
    for task, record in enumerate(found.tasks):
        masks = found.masks(task)
        for name, mask in masks.items():
            union[name] |= mask
        assert record.kept == sum(int(m.sum()) for m in masks.values())
        fresh += record.fresh
        for name, weight in found.weights.items():
            shown = found.model(task).backbone.get_submodule(name).weight
            assert torch.equal(shown.detach(), weight * masks[name])
    total = sum(m.numel() for m in union.values())
    assert fresh == sum(int(m.sum()) for m in union.values()) == round(found.used * total)
    assert fresh < sum(record.kept for record in found.tasks)  # something was used again
    assert torch.equal(moved[0], moved[STEPS - 1]) == (growth == "static")


def test_weights_of_an_earlier_task_do_not_move_and_come_with_their_values() -> None:
    values: list[Tensor] = []

    def look(trainer: Any, task: int) -> None:
        if task == 1:
            values.append(trainer.run.states[0].value().clone())

    found = learn("unfired", look)
    first, second = found.masks(0)["0"], found.masks(1)["0"]
    shared = first & second
    came = shared & (values[0] == 0)  # grown while the second task was trained
    assert int(shared.sum()) > 50 and int(came.sum()) > 0
    assert torch.equal(values[-1][shared], found.weights["0"][shared])
    assert bool((values[-1][second & ~first] != values[0][second & ~first]).any())


def test_unfired_growth_explores_more_than_random_growth() -> None:
    seen: dict[str, float] = {}
    for growth in ("unfired", "random"):
        report: Any = lambda trainer, task, g=growth: seen.update({g: trainer.report().explored})  # noqa: E731
        learn(growth, report, every=2, fraction=0.9)
    assert seen["unfired"] > 1.1 * seen["random"]


def test_accuracies_and_transfers_are_reported() -> None:
    data = split()
    found = learn(evaluate=lambda model, task: right(model, *data[task]))
    assert found.scores is not None
    assert found.scores.forgetting == 0.0 == found.scores.backward
    assert found.scores.average > 0.8
    scores = ContinualScores(((0.9,), (0.95, 0.8), (0.7, 0.6, 0.9)))
    assert scores.forgetting == pytest.approx((0.25 + 0.2) / 2) and scores.backward == pytest.approx(-0.2)
    assert scores.forward([0.9, 0.7, 0.95]) == pytest.approx(0.025)
    with pytest.raises(DataError, match="one each"):
        scores.forward([0.9])


def test_the_ratios_follow_the_sparsity() -> None:
    assert type(ratios_for(0.8)).__name__ == "ErdosRenyi" and type(ratios_for(0.95)).__name__ == "Uniform"


def test_bad_calls_say_what_to_do() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        learn("randon")
    with pytest.raises(SparsityError, match=r"attach\(optimizer\) 0 times for task 0"):
        continual_training(backbone(), [nn.Linear(48, 2)], lambda m, s: None, sparsity=0.8, total_steps=5)
