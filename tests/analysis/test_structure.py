"""Nets on random graphs: the edges are the graph's, and what the graph tells of the net is more than chance."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from analysis.digits import digits
from analysis.reber import strings
from contracts.impostor import assert_beats_impostor
from rarefy.analysis.class_pruning import prune_in_rounds
from rarefy.analysis.graph_net import GraphNet
from rarefy.analysis.held_zeros import fit
from rarefy.analysis.random_graphs import Structure, scale_free, small_world
from rarefy.analysis.structure_study import (
    FEATURES,
    Prediction,
    mutated,
    predict_performance,
    search_structures,
    structure_features,
)
from rarefy.core.errors import DataError, SparsityError, UnknownNameError
from rarefy.core.site import find_sites


@pytest.mark.parametrize("made", [small_world(12, 4, 0.4, 3), scale_free(15, 2, 5)])
def test_the_edges_of_the_net_are_those_of_the_graph_and_stay_so(made: Structure) -> None:
    net = GraphNet(made, 6, 3)
    assert net.edges() == made.edges and len(made.edges) > made.nodes
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2, weight_decay=1e-2)
    first = float(F.cross_entropy(net(x), y).detach())
    for _ in range(30):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert net.edges() == made.edges and float(F.cross_entropy(net(x), y).detach()) < 0.9 * first


def test_values_flow_along_the_edges_layer_by_layer() -> None:
    made = Structure(5, ((0, 2), (1, 2), (0, 3), (2, 3), (2, 4)))
    assert made.layers == (0, 0, 1, 2, 2) and made.depth == 3
    assert made.sources == (0, 1) and made.sinks == (3, 4)
    net = GraphNet(made, 4, 2)
    with torch.no_grad():
        net.bias.normal_()
    x = torch.randn(3, 4)
    w, b = net.weight.detach(), net.bias.detach()
    h = torch.zeros(3, 5)
    h[:, :2] = torch.tanh(x @ net.enter.detach().t() + b[:2])
    for v in (2, 3, 4):
        h[:, v] = torch.tanh(b[v] + sum(w[v, u] * h[:, u] for u, to in made.edges if to == v))
    assert torch.allclose(net(x), net.leave(h[:, [3, 4]]), atol=1e-6)


def test_a_recurrent_net_sees_earlier_steps() -> None:
    net = GraphNet(small_world(10, 4, 0.3, 0), 7, 7, recurrent=True)
    x, _ = strings(6, 0)
    changed = x.clone()
    changed[:, 2] = changed[:, 2].roll(1, 1)
    difference = (net(x) - net(changed)).abs().amax((0, 2))
    assert bool((difference[:2] == 0).all()) and bool((difference[2:] > 0).all())


def test_features_of_a_path_are_those_counted_by_hand() -> None:
    found = dict(zip(FEATURES, structure_features(Structure(4, ((0, 1), (1, 2), (2, 3)))), strict=True))
    assert (found["nodes"], found["edges"], found["depth"], found["density"]) == (4, 3, 4, 0.5)
    assert (found["degree_mean"], found["degree_max"], found["degree_variance"]) == (1.5, 2, 0.25)
    assert (found["path_mean"], found["path_max"]) == (pytest.approx(20 / 12), 3)
    assert (found["eccentricity_min"], found["eccentricity_max"]) == (2, 3)
    assert all(v == v for v in structure_features(Structure(1, ())))


def made_structures(count: int = 60) -> list[Structure]:
    chance = np.random.default_rng(0)
    found = []
    for i in range(count):
        nodes = int(chance.integers(5, 41))
        if i % 2:
            found.append(scale_free(nodes, int(chance.integers(1, 4)), i))
        else:
            found.append(small_world(nodes, 4, float(chance.random()), i))
    return found


def trained(made: Structure, steps: int = 5) -> float:
    """How well the letters that may follow in new strings are foreseen after a short training; larger is better."""
    net = GraphNet(made, 7, 7, recurrent=True, seed=1)
    x, y = TRAIN
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(steps):
        F.binary_cross_entropy_with_logits(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y = TEST
    with torch.no_grad():
        return -float(F.binary_cross_entropy_with_logits(net(x), y))


TRAIN, TEST = strings(32, 0, 7), strings(100, 1, 7)


def test_the_structure_of_tiny_recurrent_nets_tells_how_well_they_learn() -> None:
    pytest.importorskip("sklearn")
    structures = made_structures()
    performance = [trained(made) for made in structures]

    def check(values: list[float]) -> None:
        found = predict_performance(structures, values, trees=10, folds=4)
        assert found.r2 > 0.2
        assert sum(found.r2 > other for other in found.shuffled) >= 19
        assert sum(found.importance.values()) == pytest.approx(1.0)

    order = np.random.default_rng(1).permutation(60).tolist()
    assert_beats_impostor(check, performance, [performance[i] for i in order])


def test_a_search_with_a_prediction_trains_fewer_nets() -> None:
    class Forest:
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows[:, FEATURES.index("edges")]

    first = [small_world(10, 2, 0.2, seed) for seed in range(6)]

    def worth(structure: Structure) -> float:
        return float(len(structure.edges))

    seen = Prediction(1.0, (), {}, Forest())
    filtered = search_structures(first, worth, prediction=seen, children=10, keep=0.2)
    plain = search_structures(first, worth, children=2)
    assert filtered.trained == plain.trained == 6 + 5 * 2 and filtered.proposed == 6 + 5 * 10
    assert filtered.best[1] > plain.best[1] >= max(worth(s) for s in first)


def test_a_mutation_changes_one_edge() -> None:
    chance = np.random.default_rng(0)
    made = small_world(8, 4, 0.3, 0)
    for _ in range(50):
        child = mutated(made, chance)
        assert 1 <= len(set(child.edges) ^ set(made.edges)) <= 2 and child.nodes == made.nodes


def blind_or_uniform(spread: str) -> list[nn.Module]:
    found = []
    batches = list(zip(*(t.split(100) for t in digits(600, 0)), strict=True))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        fit(model, batches, loss, epochs=4, rate=3e-3, seed=seed)
        retrain = lambda m, s=seed: fit(m, batches, loss, epochs=1, rate=3e-3, seed=s)  # noqa: E731
        prune_in_rounds(model, retrain, sparsity=0.9, spread=spread, rounds=4)
        found.append(model)
    return found


def test_one_threshold_for_all_is_better_than_one_for_each_layer() -> None:
    x, y = digits(2000, 1)
    accuracy = {}
    for spread in ("blind", "uniform"):
        models = blind_or_uniform(spread)
        for model in models:
            zeros = [float((s.parameter == 0).double().mean()) for s in find_sites(model)[0]]
            sizes = [s.parameter.numel() for s in find_sites(model)[0]]
            assert sum(z * n for z, n in zip(zeros, sizes, strict=True)) / sum(sizes) == pytest.approx(0.9, abs=1e-3)
            assert (max(zeros) - min(zeros) < 0.01) == (spread == "uniform")
        with torch.no_grad():
            accuracy[spread] = sum(float((m(x).argmax(1) == y).double().mean()) for m in models) / 5
    assert accuracy["blind"] >= accuracy["uniform"]


def test_bad_calls_say_what_to_do() -> None:
    with pytest.raises(SparsityError, match="do not point to a higher node"):
        Structure(3, ((1, 0),))
    with pytest.raises(UnknownNameError, match="did you mean 'blind'"):
        prune_in_rounds(nn.Linear(2, 2), lambda m: None, sparsity=0.5, spread="blnd")
    pytest.importorskip("sklearn")
    with pytest.raises(DataError, match="at least two a fold"):
        predict_performance([Structure(2, ((0, 1),))], [0.5])
