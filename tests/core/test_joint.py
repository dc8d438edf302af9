"""What all sites may keep together: a density a site, or one budget; what was zero from the start never comes back."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolution, SiteSupport, Supports, alone
from rarefy.core.protocols import Pattern, Solution
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise

SCORES = torch.tensor([[4.0, 1.0, 3.0, 2.0], [8.0, 7.0, 6.0, 5.0]])


def site(scores: Tensor, density: float, **rest) -> SiteSupport:
    return SiteSupport("a", Layerwise(), density, torch.ones_like(scores, dtype=torch.bool), **rest)


def test_a_site_keeps_the_best_of_the_living() -> None:
    support = replace(site(SCORES, 0.5), alive=SCORES < 7)
    assert support.size == 8
    assert torch.equal(support.select(SCORES), (SCORES < 7) & (SCORES > 2))


def test_the_dead_fill_no_place_that_is_left() -> None:
    support = replace(site(SCORES, 0.5), alive=SCORES > 6)
    assert torch.equal(support.select(SCORES), SCORES > 6)


def test_groups_of_a_site_choose_for_themselves() -> None:
    assert torch.equal(site(SCORES, 0.5).select(SCORES), SCORES > 4)
    wanted = torch.tensor([[True, False, True, False], [True, True, False, False]])
    assert torch.equal(site(SCORES, 0.5, groups=2).select(SCORES), wanted)
    with pytest.raises(ValueError, match="longer"):
        site(SCORES, 0.5, groups=2).select(SCORES[:1])


def test_sites_lie_one_after_the_other() -> None:
    small = torch.tensor([[9.0, 0.5]])
    supports = Supports((site(SCORES, 0.5), replace(site(small, 0.5), alive=small > 1)))
    assert supports.sizes == [8, 2]
    assert supports.alive.tolist() == [True] * 9 + [False]
    vector = torch.cat([SCORES.reshape(-1), small.reshape(-1)])
    parts = supports.split(vector)
    assert [tuple(p.shape) for p in parts] == [(2, 4), (1, 2)] and torch.equal(parts[0], SCORES)
    assert torch.equal(supports.select(vector), torch.cat([(SCORES > 4).reshape(-1), torch.tensor([True, False])]))


def test_one_budget_takes_the_best_wherever_they_lie() -> None:
    small = torch.tensor([[9.0, 7.5]])
    vector = torch.cat([SCORES.reshape(-1), small.reshape(-1)])
    supports = Supports((site(SCORES, 0.5), site(small, 0.5)), total=3)
    assert vector[supports.select(vector)].tolist() == [8.0, 9.0, 7.5]
    dead = replace(supports, sites=(supports.sites[0], replace(supports.sites[1], alive=small > 8)))
    assert vector[dead.select(vector)].tolist() == [8.0, 7.0, 9.0]
    few = replace(dead, sites=(replace(dead.sites[0], alive=SCORES > 7), dead.sites[1]))
    assert vector[few.select(vector)].tolist() == [8.0, 9.0]


def test_the_nearest_keeps_the_largest_squares_in_double_precision() -> None:
    vector = torch.tensor([-3.0, 2.0, 1e-30, -2e-30])
    supports = Supports((site(vector[None], 0.5),))
    assert supports.nearest(vector).tolist() == [True, True, False, False]
    close = torch.tensor([1e-30, -2e-30, 0.0, 3e-30])
    assert supports.nearest(close).tolist() == [False, True, False, True]


def test_part_of_the_way_is_geometric() -> None:
    supports = Supports((site(SCORES, 0.25), SiteSupport("b", NM(2, 4), 0.5, SCORES > 0)))
    assert [s.density for s in supports.looser(0.5).sites] == [0.5, 0.5]
    assert [s.density for s in supports.looser(0.0).sites] == [1.0, 0.5]
    assert supports.looser(1.0) == supports


def test_part_of_the_way_of_a_budget() -> None:
    supports = Supports((site(SCORES, 0.5), site(SCORES, 0.5)), total=4)
    assert [supports.looser(part).total for part in (0.0, 0.5, 1.0)] == [16, 8, 4]
    assert replace(supports, total=0).looser(0.5).total == 0


@dataclass(frozen=True)
class Halves:
    """Keeps the best by size and halves them."""

    needs = frozenset[Need]()

    def __call__(self, weight: Tensor, pattern: Pattern, density: float, evidence: Evidence) -> Solution:
        return alone(self, weight, pattern, density, evidence)

    def together(self, weight: Tensor, supports: Supports, evidence: list[Evidence]) -> JointSolution:
        mask = supports.nearest(weight)
        return JointSolution(weight * mask / 2, mask, {"sites": [s.name for s in supports.sites], "of": len(evidence)})


@pytest.mark.parametrize("shape", [(2, 4), (4, 2)])
def test_one_matrix_by_itself(shape: tuple[int, int]) -> None:
    weight = torch.tensor([[0.0, 2.0, -3.0, 0.0], [1.0, 0.0, 0.0, 0.0]]).reshape(shape)
    found = Halves()(weight, Layerwise(), 0.5, Evidence("only", {}, 1))
    assert torch.equal(found.mask, weight != 0) and torch.equal(found.weight, weight / 2)
    assert found.result == {"sites": ["only"], "of": 1}
