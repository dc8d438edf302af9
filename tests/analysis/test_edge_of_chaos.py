"""The catalogued check of robust pruning at initialization."""

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.analysis.edge_of_chaos import chi, critical_sparsity, initialise, stable_branches, survival
from rarefy.core.errors import UnknownNameError
from rarefy.core.evidence import Evidence
from rarefy.core.site import find_sites
from rarefy.pruning import prune
from rarefy.scores.magnitude import Magnitude
from rarefy.scores.random import Random


def deep(width: int, activation: type[nn.Module], depth: int = 30) -> nn.Sequential:
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0])[:, :10], batch[1])


def batches(width: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(64, width, generator=generator), torch.randint(0, 10, (64,), generator=generator))]


def test_off_the_edge_layers_vanish_and_on_it_none() -> None:
    empty = []
    for weights, biases in ((1.0, 1.0), (1.0, 0.0)):
        model = deep(100, nn.Tanh)
        initialise(model, "tanh", weight_variance=weights, bias_variance=biases)
        prune(model, "robust-pai", sparsity=0.9, data=batches(100), loss=loss)
        empty.append(sum(share == 0 for share in survival(find_sites(model)[0]).values()))
    assert empty[0] >= 3
    assert empty[1] == 0


def variance(**options: object) -> float:
    """Of what leaves 30 pruned ReLU layers of width 300, over that of the dense net."""
    model = deep(300, nn.ReLU)
    initialise(model, "relu")
    ((x, y),) = batches(300)
    before = model(x).detach().square().mean()
    prune(model, "robust-pai", sparsity=0.9, data=[(x, y)], loss=loss, allocation="uniform", **options)
    return float(model(x).detach().square().mean() / before)


def variance_stays(rescale: bool) -> None:
    """For masks that are independent of the signal, as the theory takes them."""
    assert 1 / 3 < variance(rescale=rescale, score=Random()) < 3


def test_rescaling_brings_the_signal_back_behind_random_masks() -> None:
    assert_beats_impostor(variance_stays, True, False)


def test_masks_by_sensitivity_are_not_independent_and_measuring_helps() -> None:
    """What the docstring of `EdgeOfChaos` says was measured: the paper's rho overshoots, the measured one less."""
    paper, measured = variance(), variance(inputs=True)
    assert paper > 1e12
    assert 1 < measured < 1e10


def test_without_rescaling_less_than_a_thousandth_is_left() -> None:
    model = deep(300, nn.ReLU)
    initialise(model, "relu")
    ((x, y),) = batches(300)
    prune(model, "robust-pai", sparsity=0.9, data=[(x, y)], loss=loss, allocation="uniform", rescale=False)
    assert float(model(x).detach().square().mean()) < 1e-3 * float(x.square().mean())


@pytest.mark.parametrize(
    ("activation", "weights", "biases", "slope"),
    [("relu", 2.0, 0.0, 1.0), ("relu", 1.0, 0.0, 0.5), ("linear", 1.0, 0.0, 1.0)],
)
def test_chi_of_known_nets(activation: str, weights: float, biases: float, slope: float) -> None:
    assert chi(activation, weights, biases)[1] == pytest.approx(slope, rel=1e-6)


def test_tanh_is_ordered_with_biases_and_at_the_edge_without() -> None:
    assert chi("tanh", 1.0, 1.0)[1] < 0.6
    assert chi("tanh", 1.0, 0.0)[1] > 0.99
    assert chi("tanh", 4.0, 0.0)[1] > 1.0


def test_critical_sparsity_is_where_the_first_layer_goes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20))
    with torch.no_grad():
        model[1].weight.mul_(0.3)
    sites = find_sites(model)[0]
    edge = critical_sparsity({s.name: Magnitude()(s.read(), Evidence(s.name)) for s in sites})
    for sparsity, alive in ((edge - 0.002, True), (edge + 0.002, False)):
        again = nn.Sequential(*(nn.Linear(20, 20) for _ in range(3)))
        again.load_state_dict(model.state_dict())
        prune(again, "magnitude", sparsity=sparsity, allocation="global")
        assert (survival(find_sites(again)[0])["1"] > 0) is alive


def test_stable_branches_keep_a_residual_net_from_growing() -> None:
    def out(stable: bool) -> float:
        branches = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(40)]
        for i, branch in enumerate(branches):
            initialise(branch, "relu", seed=i)
        if stable:
            stable_branches(branches)
        y = x = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
        for branch in branches:
            y = y + branch(y)
        return float((y.square().mean() / x.square().mean()).detach())

    assert out(True) < 30
    assert out(False) > 1e6


def test_unknown_activations() -> None:
    with pytest.raises(UnknownNameError, match=r"activation: 'rleu'.*'relu'"):
        initialise(nn.Linear(4, 4), "rleu")
