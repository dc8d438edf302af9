import pytest
import torch
from torch import nn

from contracts.examples import evidence_of
from contracts.impostor import assert_beats_impostor
from rarefy.allocations.owl import OWL
from rarefy.allocations.uniform import Uniform
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation
from rarefy.core.site import Site, find_sites


def blocks() -> tuple[list[Site], dict[str, Evidence]]:
    """Three equal blocks of two layers; block k has outliers in k of its input features."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)) for _ in range(3)))
    sites = find_sites(model)[0]
    found = {}
    for site in sites:
        x = torch.randn(64, 32)
        x[:, : int(site.name[0])] *= 50.0
        found[site.name] = evidence_of(site.read(), x, site=site.name)
    return sites, found


def more_outliers_keep_more(allocation: Allocation) -> None:
    sites, evidence = blocks()
    chosen = allocation(sites, 0.3, evidence)
    means = [sum(chosen[s.name] for s in sites if s.name.startswith(f"{k}.")) / 2 for k in range(3)]
    assert means[0] < means[1] < means[2]
    assert means[2] - means[0] == pytest.approx(2 * 0.08, abs=1e-6)


def test_owl() -> None:
    assert_beats_impostor(more_outliers_keep_more, OWL(), Uniform())


def test_layers_of_a_block_share_its_density() -> None:
    sites, evidence = blocks()
    chosen = OWL()(sites, 0.3, evidence)
    assert chosen["1.0"] == chosen["1.1"]


def test_ratios_by_hand() -> None:
    """Two blocks of one layer: the one with the larger share of A > 5 mean(A) gets 2 * limit more."""
    sites = find_sites(nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)))[0]
    x = torch.randn(32, 16)
    spiked = x.clone()
    spiked[:, 0] *= 100.0
    evidence = {s.name: evidence_of(s.read(), x if s.name == "0" else spiked, site=s.name) for s in sites}
    chosen = OWL(limit=0.05)(sites, 0.4, evidence)
    assert chosen == {"0": pytest.approx(0.35), "1": pytest.approx(0.45)}


def test_without_a_difference_it_is_uniform() -> None:
    sites, evidence = blocks()
    same = dict.fromkeys(evidence, evidence[sites[0].name])
    with torch.no_grad():
        for site in sites:
            site.parameter.copy_(sites[0].parameter)
    assert set(OWL()(sites, 0.3, same).values()) == {0.3}


@pytest.mark.parametrize(("factor", "limit"), [(0.0, 0.1), (5.0, 0.6), (5.0, -0.1)])
def test_impossible_fields(factor: float, limit: float) -> None:
    with pytest.raises(SparsityError, match="limit in"):
        OWL(factor, limit)
