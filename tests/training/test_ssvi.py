"""A Bayesian net on a sparse subspace: the criteria's formulas, exchange, draws and means."""

import io

import pytest
import torch
from torch import Tensor

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError, SparsityError, UnknownNameError
from rarefy.training.gaussian import KL, inverse_softplus, sd_of
from rarefy.training.posterior import at_means, average, finish
from rarefy.training.signal import CRITERIA, exponential, folded, signal
from rarefy.training.ssvi import ssvi
from training.loops import STEPS, adam, mlp, sgd, start, train


@pytest.mark.parametrize("pair", [(0.0, 1.0), (0.3, 1.0), (-1.0, 0.5), (2.0, 0.1)])
def test_the_moments_are_those_of_draws(pair: tuple[float, float]) -> None:
    mu, sd = (torch.tensor([value]) for value in pair)
    drawn = (pair[0] + pair[1] * torch.randn(2_000_000, generator=torch.Generator().manual_seed(0)).double()).abs()
    mean, variance = folded(mu, sd)
    assert float(mean) == pytest.approx(float(drawn.mean()), rel=0.01)
    assert float(variance) == pytest.approx(float(drawn.var()), rel=0.01)
    assert float(exponential(mu, sd, 0.7)) == pytest.approx(float((0.7 * drawn).exp().mean()), rel=0.01)
    square = float((0.7 * drawn).exp().square().mean())
    expected = float((0.7 * drawn).exp().mean()) / (square - float((0.7 * drawn).exp().mean()) ** 2) ** 0.5
    assert float(signal(mu, sd, "snr-exp", 0.7)) == pytest.approx(expected, rel=0.02)


def kendall(a: Tensor, b: Tensor) -> float:
    order = (a.unsqueeze(1) - a).sign() * (b.unsqueeze(1) - b).sign()
    return float(order.sum() / (len(a) * (len(a) - 1)))


def ranks_by_certainty(criterion: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(1, 200, generator=generator)
    sd = torch.rand(1, 200, generator=generator) + 0.01
    score = signal(mu, sd, criterion)[0]
    assert kendall(score, mu.double().abs()[0]) < 0.95
    sure, unsure = signal(torch.tensor([0.5, 0.6]), torch.tensor([0.05, 2.0]), criterion)
    assert sure > unsure


def test_the_ranking_is_not_that_of_the_means_when_deviations_differ() -> None:
    assert_beats_impostor(ranks_by_certainty, "snr-abs", "mean")
    for criterion in CRITERIA:
        extremes = signal(torch.tensor([[0.0, 1e-8, 5.0, 5.0]]), torch.tensor([[1.0, 1e-8, 1e-30, 1e-4]]), criterion)
        assert bool(extremes.isfinite().all()) and bool((extremes >= 0).all())


def test_new_weights_begin_at_zero_with_the_mean_spread_and_the_count_stays() -> None:
    task = mlp()
    trainer, optimizer = start(task, "ssvi", adam, every=4)
    counts = [state.count for state in trainer.run.states]
    seen = 0
    for step in range(16):
        state = trainer.run.states[1]
        before, spread = state.mask.clone(), sd_of(state).clone()
        task.loss(step).backward()
        optimizer.param_groups[0]["lr"] = 0.0 if step in (4, 8, 12) else 1e-2
        trainer.step()
        trainer.zero_grad()
        assert [int((s.mask).sum()) for s in trainer.run.states] == counts
        assert all(int((s.weight.parameter != 0).sum()) == c for s, c in zip(trainer.run.states, counts, strict=True))
        fresh, stayed = state.mask & ~before, before & state.mask
        if bool(fresh.any()):
            seen += 1
            assert bool((state.value()[fresh] == 0).all()) and bool((state.value()[~state.mask] == 0).all())
            assert torch.allclose(sd_of(state)[fresh], sd_of(state)[stayed].mean(), rtol=1e-4)
            assert not torch.equal(sd_of(state)[stayed], spread[stayed])
    assert seen == 3


def test_the_gradient_of_the_spread_is_that_of_the_bound() -> None:
    """One weight, loss (w - 3)^2 / 2: after many steps s is near the posterior's 1 / sqrt(1 + strength / prior^2)."""
    model = torch.nn.Sequential(torch.nn.Linear(1, 64, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    options = {"examples": 4, "strength": 4.0, "prior_sd": 1.0, "warm": 0.0, "lr": 0.02}
    trainer = rarefy.sparse_training(model, optimizer, "ssvi", sparsity=0.0, total_steps=800, **options)
    for _ in range(800):
        (0.5 * (model[0].weight - 3.0).square().sum()).backward()
        trainer.step()
        trainer.zero_grad()
    state = trainer.run.states[0]
    assert float(sd_of(state).mean()) == pytest.approx(0.5**0.5, rel=0.06)
    assert float(state.value().mean()) == pytest.approx(1.5, rel=0.06)


def test_the_divergence_warms_up() -> None:
    task = mlp()
    trainer, _ = start(task, "ssvi", sgd, warm=0.5, examples=10, strength=2.0)
    state, kl = trainer.run.states[0], KL(10, 2.0, 0.5, 0.2)
    found = []
    for _ in train(task, trainer, STEPS):
        found.append(kl.weight(state))
    assert found[5] == pytest.approx(0.2 * 6 / 12) and found[-1] == pytest.approx(0.2)
    assert float(torch.nn.functional.softplus(torch.tensor(inverse_softplus(0.02)))) == pytest.approx(0.02)


def test_draws_are_averaged_and_the_means_are_left_at_the_end() -> None:
    task = mlp()
    trainer, _ = start(task, "ssvi", first=0.5)
    list(train(task, trainer, 10))
    x, held = task.batches[0][0], [p.detach().clone() for p in task.model.parameters()]
    drawn = [average(trainer, lambda: task.model(x), samples=1, seed=seed) for seed in range(3)]
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(average(trainer, lambda: task.model(x), samples=1, seed=1), drawn[1])
    with at_means(trainer):
        assert all(torch.equal(s.weight.parameter, s.value()) for s in trainer.run.states)
    assert all(torch.equal(a, b) for a, b in zip(held, task.model.parameters(), strict=True))
    finish(trainer)
    assert all(torch.equal(s.weight.parameter, s.value()) for s in trainer.run.states)
    assert all(int((s.weight.parameter != 0).sum()) == s.count for s in trainer.run.states)
    other, _ = start(mlp(), "rigl")
    with pytest.raises(ModelError, match="are no distributions"):
        finish(other)


def test_the_model_is_saved_first_and_the_trainer_takes_up_its_state() -> None:
    whole, again = mlp(), mlp(seed=4)
    trainer, optimizer = start(whole, "ssvi", adam, every=4)
    list(train(whole, trainer, 9))
    stream = io.BytesIO()
    torch.save([whole.model.state_dict(), optimizer.state_dict(), trainer.state_dict()], stream)
    expected = list(train(whole, trainer, 8, 9))
    stream.seek(0)
    states = torch.load(stream, weights_only=True)
    again.model.load_state_dict(states[0])
    made = adam(again.model)
    made.load_state_dict(states[1])
    trainer, _ = start(again, "ssvi", lambda _: made, every=4, state=states[2])
    assert list(train(again, trainer, 8, 9)) == expected


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match="criterion"):
        ssvi(criterion="size")
    with pytest.raises(SparsityError, match="first=0"):
        ssvi(first=0.0)
    with pytest.raises(SparsityError, match="examples=0"):
        ssvi(examples=0)
    trainer, _ = start(mlp(), "ssvi")
    with pytest.raises(SparsityError, match="samples 0"):
        average(trainer, lambda: torch.zeros(()), samples=0)
