"""The catalogued check: searching among random nets gains nothing after training, an oracle's masks are told apart."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from rarefy.analysis.random_search import Nodes, not_refused, random_nodes, search_baseline, sign_flip
from rarefy.core.errors import SparsityError
from rarefy.core.site import Site

GENERATOR = torch.Generator().manual_seed(0)
TRUE = torch.randn(8, 4, generator=GENERATOR)
X = torch.randn(300, 24, generator=GENERATOR)
Y = (X[:, :8] @ TRUE).argmax(1)  # inputs 8 to 23 are noise


class Net(nn.Module):
    """Its first layer copies each input to a unit of its own, so that dropping units drops inputs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.take, self.mix, self.out = nn.Linear(24, 24, bias=False), nn.Linear(24, 12), nn.Linear(12, 4)
        with torch.no_grad():
            self.take.weight.copy_(torch.eye(24))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mix(self.take(x))))


def score(model: nn.Module) -> float:
    return -float(nn.functional.cross_entropy(model(X[:64]), Y[:64]).detach())


def train(model: nn.Module, trained: list[nn.Parameter] | None = None, steps: int = 60) -> float:
    trained = trained or [*model.mix.parameters(), *model.out.parameters()]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[:150]), Y[:150]).backward()
        optimizer.step()
    return float((model(X[150:]).argmax(1) == Y[150:]).double().mean())


def oracle(sites: Sequence[Site], sparsity: float, generator: torch.Generator) -> Nodes:
    """Drops noise inputs first; otherwise as many nodes as a random draw."""
    nodes = random_nodes(sites, sparsity, generator)
    count = int(nodes["take"].sum())
    nodes["take"] = torch.arange(24) < count
    return nodes


class Plain(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.take, self.mix, self.out = nn.Linear(24, 40), nn.Linear(40, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.mix(torch.relu(self.take(x)))))


def train_all(model: nn.Module) -> float:
    return train(model, list(model.parameters()), steps=250)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.65])
def test_the_best_of_many_starts_better_but_ends_no_better(sparsity: float) -> None:
    found = search_baseline(Plain, sparsity, score, train_all, trials=8, seeds=7)
    assert sum(best > single for best, single in found.initial) >= 5
    assert found.p > 0.05
    assert found.interval[0] <= 0.0 <= found.interval[1]
    assert found.interval[0] <= found.gain <= found.interval[1]


def test_an_oracle_is_told_apart() -> None:
    found = search_baseline(Net, 0.6, score, train, trials=2, seeds=8, draw=oracle)
    assert found.gain > 0.05
    assert found.p < 0.01
    assert 0.0 < found.interval[0] <= found.gain <= found.interval[1]


def test_dropped_nodes_stay_dropped_while_training() -> None:
    from rarefy.analysis.random_search import keep_nodes
    from rarefy.core.site import find_sites

    model = Net(0)
    sites = find_sites(model)[0]
    nodes = random_nodes(sites, 0.5, torch.Generator().manual_seed(1))
    keep_nodes(sites, nodes)
    train(model)
    assert (model.mix.weight[~nodes["mix"]] == 0).all()
    assert (model.mix.bias[~nodes["mix"]] == 0).all()
    assert (model.mix.weight[nodes["mix"]] != 0).any()


def by_walsh_averages(differences: list[float], level: float) -> tuple[float, float]:
    """The same interval written out: d is refused where few sign patterns of (x - d) reach its sum. The patterns change
    where a sum of some of them is zero, so the ends lie at means of subsets."""
    n = len(differences)
    subsets = itertools.chain.from_iterable(itertools.combinations(differences, k) for k in range(1, n + 1))
    kept = []
    for edge in sorted({sum(s) / len(s) for s in subsets}):
        shifted = [d - edge for d in differences]
        sums = [
            abs(sum(s * d for s, d in zip(row, shifted, strict=True))) for row in itertools.product((-1, 1), repeat=n)
        ]
        if sum(value >= abs(sum(shifted)) - 1e-9 for value in sums) / len(sums) > 1 - level:
            kept.append(edge)
    return kept[0], kept[-1]


def test_the_interval_is_what_the_test_does_not_refuse() -> None:
    differences = [0.3, -0.1, 0.25, 0.4, 0.05, 0.6, -0.2]
    assert not_refused(differences) == pytest.approx(by_walsh_averages(differences, 0.95), abs=1e-6)
    low, high = not_refused([d + 5.0 for d in differences])
    assert (low - 5.0, high - 5.0) == pytest.approx(not_refused(differences), abs=1e-6)
    assert not_refused([0.5] * 8) == pytest.approx((0.5, 0.5), abs=1e-9)
    assert not_refused([0.1, 0.2, 0.3, 0.4, 0.5]) == (-math.inf, math.inf)


def test_the_interval_covers_the_truth_nineteen_times_of_twenty() -> None:
    """Of 100 samples of 8 differences around 0.3, about 95 intervals hold 0.3, and most do not hold 0."""
    generator = torch.Generator().manual_seed(5)
    drawn = (0.3 + 0.3 * torch.randn(100, 8, generator=generator, dtype=torch.float64)).tolist()
    intervals = [not_refused(differences) for differences in drawn]
    assert 89 <= sum(low <= 0.3 <= high for low, high in intervals) <= 99
    assert sum(low <= 0.0 for low, _ in intervals) < 50


def test_sign_flip_by_hand() -> None:
    assert sign_flip([1.0, 1.0, 1.0]) == 0.25
    assert sign_flip([1.0, -1.0]) == 1.0
    assert sign_flip([1.0] * 20) < 0.001
    with pytest.raises(SparsityError, match="seeds=1"):
        search_baseline(Net, 0.5, score, train, seeds=1)
