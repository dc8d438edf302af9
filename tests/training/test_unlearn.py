"""Forgetting on request: the zeros stay, the penalty fades, the step is that of the formula, the gap shrinks."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import DataError, SparsityError, UnknownNameError
from rarefy.training.begin import begin
from rarefy.training.static import static
from rarefy.training.unlearn import WAYS, FadingL1, unlearn
from rarefy.training.unlearn_jumps import gradient_rows, influence_step, solve_fisher
from rarefy.training.unlearn_metrics import UnlearningMetrics, best_threshold, unlearning_metrics

Examples = tuple[Tensor, Tensor]


def data(noise: float = 0.7) -> tuple[Examples, Examples, Examples]:
    """Retained, forgotten (some of each class, with wrong labels, so that they have to be learned by heart), test."""
    x, y = digits(260, 0, noise)
    wrong = (y[:40] + 1 + torch.arange(40) % 9) % 10
    return (x[40:], y[40:]), (x[:40], wrong), digits(500, 1, noise)


def trained(examples: Examples, sparsity: float = 0.0, steps: int = 200, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    trainer = begin(model, optimizer, static(start="magnitude"), sparsity=sparsity)
    for _ in range(steps):
        F.cross_entropy(model(examples[0]), examples[1]).backward()
        trainer.step()
        optimizer.zero_grad()
    trainer.detach()
    return model


def both(a: Examples, b: Examples) -> Examples:
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])


@pytest.mark.parametrize("way", WAYS)
def test_zeros_stay_and_everything_else_may_move(way: str) -> None:
    retain, forget, _ = data()
    model = trained(both(retain, forget), 0.8, steps=30)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found = unlearn(model, retain, forget, way=way, epochs=2, damping=0.1)
    assert found.sparsity == pytest.approx(0.8, abs=0.01) and found.seconds > 0.0
    for name, p in model.named_parameters():
        assert bool((p.detach()[before[name] == 0] == 0).all()) and not torch.equal(p.detach(), before[name])
        assert bool(p.isfinite().all())


def test_the_penalty_fades_to_nothing_at_the_last_step() -> None:
    penalty = FadingL1(0.4)
    assert [penalty.at(step, 5) for step in range(5)] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])
    assert penalty.at(4, 5) == 0.0


def test_the_penalty_makes_the_weights_smaller() -> None:
    def check(l1: float) -> None:
        retain, forget, _ = data()
        model = trained(both(retain, forget), steps=30)
        size = float(model[0].weight.detach().abs().sum())
        unlearn(model, retain, forget, l1=l1, epochs=20)
        assert float(model[0].weight.detach().abs().sum()) < 0.8 * size

    assert_beats_impostor(check, 1e-2, 0.0)


def test_ascent_makes_the_forgotten_worse() -> None:
    retain, forget, _ = data()
    model = trained(both(retain, forget), steps=60)
    before = F.cross_entropy(model(forget[0]), forget[1])
    unlearn(model, retain, forget, way="ascent", epochs=5, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    assert float(F.cross_entropy(model(forget[0]), forget[1]).detach()) > 1.05 * float(before.detach())


def test_the_influence_step_is_the_formula() -> None:
    torch.manual_seed(0)
    retain, forget, _ = data()
    retain = retain[0][:30], retain[1][:30]
    model = nn.Linear(64, 10)
    rows = {name: gradient_rows(model, part).double() for name, part in (("r", retain), ("f", forget))}
    fisher = rows["r"].t() @ rows["r"] / 30 + 0.05 * torch.eye(650, dtype=torch.float64)
    v = rows["f"].sum(0) / 70 - 40 / (70 * 30) * rows["r"].sum(0)
    expected = torch.linalg.solve(fisher, v)
    before = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    influence_step(model, retain, forget, 1.0, 0.05, 30, seed=0)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]).double() - before
    assert torch.allclose(moved, expected, rtol=1e-3, atol=1e-5)
    assert torch.allclose(solve_fisher(rows["r"], v, 0.05), expected, rtol=1e-6)


def test_noise_goes_where_the_retained_data_do_not_mind() -> None:
    retain, forget, _ = data()
    dead = retain[0].clone()
    dead[:, 7] = 0.0
    model = trained((dead, retain[1]), steps=30)
    before = model[0].weight.detach().clone()
    unlearn(model, (dead, retain[1]), forget, way="fisher", strength=1e-9)
    moved = (model[0].weight.detach() - before).abs()
    assert float(moved[:, 7].mean()) > 20 * float(moved[:, 8:].mean())


def test_sparse_nets_and_the_penalty_forget_more_like_one_that_never_saw_the_data() -> None:
    retain, forget, test = data()

    def check(settings: tuple[float, float]) -> None:
        sparsity, l1 = settings
        model = trained(both(retain, forget), sparsity, steps=150)
        anew = unlearning_metrics(trained(retain, sparsity, steps=150), retain, forget, test)
        fast = lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)  # noqa: E731
        unlearn(model, retain, forget, l1=l1, epochs=10, optimizer=fast)
        assert unlearning_metrics(model, retain, forget, test).gap(anew) < 0.34

    assert_beats_impostor(check, (0.9, 0.0), (0.0, 0.0))
    check((0.0, 5e-3))


def test_the_threshold_is_the_best_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(40, generator=generator).sqrt().mul(8).round() / 8
    unseen = torch.rand(70, generator=generator).mul(8).round() / 8

    def advantage(limit: float) -> float:
        return float((seen >= limit).double().mean() - (unseen >= limit).double().mean())

    assert advantage(best_threshold(seen, unseen)) == pytest.approx(max(advantage(i / 8) for i in range(10)))


def test_the_metrics_are_those_of_a_case_done_by_hand() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    def logits(*confidences: float) -> Tensor:
        p = torch.tensor(confidences)
        return torch.stack([p, 1 - p], 1).log()

    def zeros(count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.long)

    retain, test = (logits(0.9, 0.95, 0.8), zeros(3)), (logits(0.4, 0.6), zeros(2))
    found = unlearning_metrics(Fixed(), retain, (logits(0.3, 0.7, 0.85, 0.99), zeros(4)), test)
    assert found == UnlearningMetrics(forgotten=0.25, unseen=0.5, retained=1.0, test=0.5)
    assert found.gap(replace(found, unseen=0.7, test=0.3)) == pytest.approx(0.1)


def test_bad_calls_say_what_to_do() -> None:
    retain, forget, _ = data()
    model = trained(retain, steps=1)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnknownNameError, match="did you mean 'fisher'"):
        unlearn(model, retain, forget, way="fischer")
    with pytest.raises(DataError, match="at least one"):
        unlearn(model, retain, (forget[0][:0], forget[1][:0]))
    with pytest.raises(DataError, match="goes with way="):
        unlearn(model, retain, forget, way="ascent", l1=0.1)
    with pytest.raises(SparsityError, match="give a positive number"):
        unlearn(model, retain, forget, way="influence", damping=0.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
