"""Every allocation: a density in [0, 1] for each site, and the budget met."""

import pytest

from contracts.examples import all_of, evidence_for, make
from contracts.models import CASES
from rarefy.core.errors import EvidenceError
from rarefy.core.evidence import Evidence
from rarefy.core.registry import Entry
from rarefy.core.site import Site, find_sites

EVERY = pytest.mark.parametrize("entry", all_of("allocation"))
MODELS = pytest.mark.parametrize("case", CASES)


def sites_of(case: str) -> list[Site]:
    return find_sites(CASES[case]().model)[0]


@EVERY
@MODELS
@pytest.mark.parametrize("density", [0.02, 0.3, 0.5, 0.95])
def test_the_budget_is_met(entry: Entry, case: str, density: float) -> None:
    sites = sites_of(case)
    chosen = make(entry)(sites, density, evidence_for(sites))
    sizes = {site.name: site.shape[0] * site.shape[1] for site in sites}
    assert set(chosen) == set(sizes)
    assert all(0.0 <= value <= 1.0 for value in chosen.values())
    assert sum(sizes[k] * v for k, v in chosen.items()) == pytest.approx(density * sum(sizes.values()), abs=0.51)


@EVERY
@MODELS
def test_repeatable_whatever_the_order_and_nothing_touched(entry: Entry, case: str) -> None:
    sites = sites_of(case)
    before = [site.read() for site in sites]
    evidence = evidence_for(sites)
    first = make(entry)(sites, 0.4, evidence)
    again = make(entry)(list(reversed(sites)), 0.4, evidence)
    assert all(again[name] == pytest.approx(value, abs=1e-12) for name, value in first.items())
    assert all((site.read() == weight).all() for site, weight in zip(sites, before, strict=True))


@EVERY
def test_one_site_gets_the_whole_budget(entry: Entry) -> None:
    sites = sites_of("perceptron")[:1]
    size = sites[0].shape[0] * sites[0].shape[1]
    chosen = make(entry)(sites, 0.37, evidence_for(sites))
    assert chosen[sites[0].name] == pytest.approx(0.37, abs=1 / size)


@EVERY
def test_missing_evidence_is_named(entry: Entry) -> None:
    allocation = make(entry)
    sites = sites_of("perceptron")
    full = evidence_for(sites)
    for need in allocation.needs:
        poor = {k: Evidence(k, {n: v for n, v in e.items() if n is not need}, e.tokens) for k, e in full.items()}
        with pytest.raises(EvidenceError, match=need.name):
            allocation(sites, 0.5, poor)
