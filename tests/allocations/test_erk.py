import pytest
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.allocations.erdos_renyi import ErdosRenyi, erdos_renyi, erdos_renyi_kernel
from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation
from rarefy.core.site import find_sites


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 16, 3), nn.Conv2d(16, 64, 1), nn.Linear(64, 32))


def densities_of(allocation: Allocation, density: float = 0.2) -> list[float]:
    sites = find_sites(model())[0]
    chosen = allocation(sites, density, {})
    return [chosen[site.name] for site in sites]


def ratio_with_the_kernel(allocation: Allocation) -> None:
    """RigL section 3: density ~ (in + out + kh + kw) / (in * out * kh * kw)."""
    shares = [(8 + 16 + 3 + 3) / (8 * 16 * 9), (16 + 64 + 1 + 1) / (16 * 64), (64 + 32) / (64 * 32)]
    chosen = densities_of(allocation)
    assert chosen[1] / chosen[0] == pytest.approx(shares[1] / shares[0])
    assert chosen[2] / chosen[0] == pytest.approx(shares[2] / shares[0])


def ratio_without_the_kernel(allocation: Allocation) -> None:
    shares = [(8 + 16) / (8 * 16), (16 + 64) / (16 * 64), (64 + 32) / (64 * 32)]
    chosen = densities_of(allocation)
    assert chosen[1] / chosen[0] == pytest.approx(shares[1] / shares[0])
    assert chosen[2] / chosen[0] == pytest.approx(shares[2] / shares[0])


@pytest.mark.parametrize("impostor", [Uniform(), erdos_renyi()])
def test_erk(impostor: Allocation) -> None:
    assert_beats_impostor(ratio_with_the_kernel, erdos_renyi_kernel(), impostor)


def test_er() -> None:
    assert_beats_impostor(ratio_without_the_kernel, erdos_renyi(), Uniform())
    assert_beats_impostor(ratio_without_the_kernel, erdos_renyi(), erdos_renyi_kernel())


def test_a_small_layer_stays_dense_and_the_others_pay_for_it() -> None:
    sites = find_sites(nn.Sequential(nn.Linear(4, 4), nn.Linear(256, 256)))[0]
    chosen = erdos_renyi()(sites, 0.3, {})
    assert chosen["0"] == 1.0
    assert chosen["1"] == pytest.approx((0.3 * (16 + 65536) - 16) / 65536)


def test_erk_plus_keeps_the_last_layer_and_the_others_pay_for_it() -> None:
    sites = find_sites(model())[0]
    sizes = {site.name: site.parameter.numel() for site in sites}
    chosen = ErdosRenyi(last_dense=True)(sites, 0.8, {})
    assert chosen["2"] == 1.0
    assert sum(sizes[name] * density for name, density in chosen.items()) == pytest.approx(0.8 * sum(sizes.values()))
    with pytest.raises(SparsityError, match=r"it alone has 2048 weights and density 0\.2 of the model is 845"):
        ErdosRenyi(last_dense=True)(sites, 0.2, {})
    assert ErdosRenyi(last_dense=True)(sites[:1], 0.2, {}) == {"0": pytest.approx(0.2)}
