"""Inside a random net: the ratios, and that nothing outside is ever seen."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.core.site import find_sites
from rarefy.training.edge_popup import edge_popup
from rarefy.training.fixed import Fixed
from rarefy.training.method import SparseMethod
from rarefy.training.random_source import random_source
from rarefy.training.run import SOURCE
from rarefy.training.source_mask import RATIOS, width_factor
from training.loops import STEPS, convnet, mlp, sgd, train


@pytest.mark.parametrize("ratios", sorted(RATIOS))
@pytest.mark.parametrize("density", [0.05, 0.5, 0.9])
def test_the_ratios_meet_the_density_and_pass_no_layer(ratios: str, density: float) -> None:
    sites = find_sites(convnet().model)[0]
    found = RATIOS[ratios](sites, density, {})
    sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
    assert all(0.0 < p <= 1.0 for p in found.values())
    assert sum(sizes[n] * p for n, p in found.items()) == pytest.approx(density * sum(sizes.values()))


def test_balanced_is_equally_many_and_pyramidal_a_power_of_the_depth() -> None:
    sites = find_sites(mlp().model)[0]
    kept = [RATIOS["balanced"](sites, 0.05, {})[s.name] * s.shape[0] * s.shape[1] for s in sites]
    assert kept == pytest.approx([sum(kept) / 3] * 3)
    p = [RATIOS["pyramidal"](sites, 0.3, {})[s.name] for s in sites]
    assert p == pytest.approx([p[0], p[0] ** 2, p[0] ** 3])


@pytest.mark.parametrize("inner", ["gmp-zhu-gupta", "rigl", "set", "acdc", "sr-ste", "movement-pruning", "edge-popup"])
def test_nothing_outside_the_source_is_seen_at_any_step(inner: str) -> None:
    def check(method: str) -> None:
        task = mlp()
        options = {} if inner == "edge-popup" else {"every": 2} if inner != "sr-ste" else {"every": 1}
        if method == "random-pruning-start-sparse":
            options = {"inner": inner, "options": options, "source": 0.5}
        trainer = rarefy.sparse_training(
            task.model, sgd(task.model), method, sparsity=0.8, total_steps=STEPS, allocation="uniform",
            pattern="unstructured", **options
        )  # fmt: skip
        first = {s.name: s.extra.get(SOURCE, s.mask).clone() for s in trainer.run.states}
        if method == "random-pruning-start-sparse":
            assert [int(m.sum()) for m in first.values()] == [m.numel() // 2 for m in first.values()]
        else:
            first = {name: torch.rand(m.shape) < 0.5 for name, m in first.items()}
        for _ in train(task, trainer, STEPS):
            for state in trainer.run.states:
                shown = state.weight.as_matrix(state.weight.parameter.detach())
                assert bool((shown[~first[state.name]] == 0).all())
        assert [s.kept for s in trainer.run.states] == [s.count for s in trainer.run.states]

    assert_beats_impostor(check, "random-pruning-start-sparse", inner)


def test_a_method_is_a_name_with_options_or_an_object() -> None:
    made = random_source(inner="rigl", options={"every": 7})
    assert made.topology.clock.every == 7  # type: ignore[attr-defined]
    assert isinstance(random_source(inner=edge_popup()), SparseMethod)
    with pytest.raises(UnknownNameError, match="does not train"):
        random_source(inner="wanda")
    with pytest.raises(UnknownNameError, match="did you mean 'balanced'"):
        random_source(ratios="balance")


def test_what_does_not_fit_into_the_source_is_refused() -> None:
    def call(**more: Any) -> None:
        task = mlp()
        rarefy.sparse_training(task.model, sgd(task.model), "random-pruning-start-sparse", total_steps=9, **more)

    with pytest.raises(SparsityError, match="give a larger source"):
        call(sparsity=0.3)
    with pytest.raises(SparsityError, match="leave the pattern out"):
        call(pattern="2:4")
    with pytest.raises(SparsityError, match="chooses how many weights each layer keeps"):
        call(sparsity=0.9, inner="sparse-momentum")
    assert width_factor(0.5) == pytest.approx(1.4427, abs=1e-4) and width_factor(0.9) < width_factor(0.1)


def popup(method: SparseMethod, steps: int = 100) -> float:
    """Accuracy on new pictures of the best net found in an untrained one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512, bias=False), nn.ReLU(), nn.Linear(512, 10, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    trainer = rarefy.sparse_training(model, optimizer, method, sparsity=0.9, total_steps=steps)
    x, y = digits(400, 0)
    for _ in range(steps):
        F.cross_entropy(model(x), y).backward()
        trainer.step()
        optimizer.zero_grad()
    kept = model[0].weight.detach()
    assert bool((kept[kept != 0].abs() - kept.abs().max()).abs().max() < 1e-6)  # the weights never trained
    assert trainer.sparsity == pytest.approx(0.9, abs=0.01)
    x, y = digits(1000, 1)
    return float((model(x).argmax(1) == y).double().mean())


def test_strong_tickets_in_a_random_half_of_the_net_are_as_good() -> None:
    def check(method: SparseMethod) -> None:
        assert popup(method) > dense - 0.03

    dense = popup(edge_popup())
    assert dense > 0.6
    never = replace(edge_popup(), topology=Fixed())
    assert_beats_impostor(check, random_source(inner=edge_popup(), source=0.5), never)
