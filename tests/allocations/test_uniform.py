from contracts.impostor import assert_beats_impostor
from contracts.models import convnet
from rarefy.allocations.erdos_renyi import erdos_renyi_kernel
from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation
from rarefy.core.site import find_sites


def the_same_everywhere(allocation: Allocation) -> None:
    sites = find_sites(convnet().model)[0]
    assert set(allocation(sites, 0.4, {}).values()) == {0.4}


def test_uniform() -> None:
    assert_beats_impostor(the_same_everywhere, Uniform(), erdos_renyi_kernel())
