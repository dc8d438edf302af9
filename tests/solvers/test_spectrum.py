"""Spectrum-preserving sampling: unbiased, exact counts, and the flat component that thresholding loses."""

import pytest
import torch
from torch import Tensor

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Solver
from rarefy.patterns.block import Block
from rarefy.patterns.grouped_nm import GroupedNM
from rarefy.patterns.nm import NM
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.scores.magnitude import Magnitude
from rarefy.solvers.scored import Scored
from rarefy.solvers.spectrum import SpectrumPreserving


def flat_with_spikes() -> tuple[Tensor, Tensor, Tensor]:
    """A rank-one matrix of +-0.1 with 5 % of the entries replaced by spikes; its singular vectors."""
    generator = torch.Generator().manual_seed(0)
    u, v = ((torch.rand(200, generator=generator) < 0.5).float() * 2 - 1 for _ in range(2))
    a = 0.1 * torch.outer(u, v)
    spikes = torch.rand(200, 200, generator=generator) < 0.05
    a[spikes] = 2.0 * torch.randn(int(spikes.sum()), generator=generator).sign()
    return a, u / u.norm(), v / v.norm()


def the_flat_component_stays(solver: Solver) -> None:
    """u^T S v within 30 % of u^T A v at a fifth of the entries. What thresholding keeps of it is the spikes' part and
    the flat entries that happen to fit into the budget."""
    a, u, v = flat_with_spikes()
    spikes = a.abs() > 1
    flat = a.masked_fill(spikes, 0.0)
    kept = solver(a, Layerwise(), 0.2, Evidence("a")).weight.masked_fill(spikes, 0.0)
    true = float(u @ flat @ v)
    assert abs(float(u @ kept @ v) - true) < 0.3 * true


def test_spectrum_preserving_pruning() -> None:
    assert_beats_impostor(the_flat_component_stays, SpectrumPreserving(), Scored(Magnitude()))


def test_thresholding_loses_more_than_sixty_percent_of_it() -> None:
    a, u, v = flat_with_spikes()
    spikes = a.abs() > 1
    kept = Scored(Magnitude())(a, Layerwise(), 0.2, Evidence("a")).weight.masked_fill(spikes, 0.0)
    assert float(u @ kept @ v) < 0.4 * float(u @ a.masked_fill(spikes, 0.0) @ v)


@pytest.mark.parametrize("pattern", [Layerwise(), Rowwise(), NM(2, 4), Block(2, 1)], ids=str)
def test_the_mean_of_many_draws_is_the_matrix(pattern) -> None:
    a = torch.randn(12, 16)
    density = 0.5

    def off(draws: int) -> float:
        total = torch.zeros_like(a)
        for seed in range(draws):
            total += SpectrumPreserving(spectrum=0)(a, pattern, density, Evidence("a", seed=seed)).weight
        return float((total / draws - a).norm() / a.norm())

    few, many = off(12), off(200)
    assert many < 0.15
    assert many < 0.5 * few  # 1 / sqrt(n) would be 0.24


def test_large_entries_are_certain_and_unscaled() -> None:
    a = 0.01 * torch.randn(20, 20)
    a[3, 4], a[7, 7] = 5.0, -6.0
    found = SpectrumPreserving()(a, Layerwise(), 0.1, Evidence("a"))
    assert found.weight[3, 4] == 5.0
    assert found.weight[7, 7] == -6.0
    assert int(found.mask.sum()) == 40


def test_another_seed_is_another_draw_and_the_result_tells_the_drift() -> None:
    a, *_ = flat_with_spikes()
    one, two = (SpectrumPreserving()(a, Layerwise(), 0.2, Evidence("a", seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.mask, two.mask)
    true = float(torch.linalg.matrix_norm(a - one.weight, 2) / torch.linalg.matrix_norm(a, 2))
    assert one.result["spectral_error"] == pytest.approx(true, rel=0.1)
    top = float(torch.linalg.matrix_norm(one.weight, 2) / torch.linalg.matrix_norm(a, 2))
    assert one.result["top_singular_value"] == pytest.approx(top, rel=0.05)


def test_what_cannot_be_sampled_is_refused() -> None:
    with pytest.raises(SparsityError, match="fc: sampling does not know"):
        SpectrumPreserving()(torch.randn(4, 16), GroupedNM(1, 4, 1), 0.25, Evidence("fc"))
    with pytest.raises(SparsityError, match="floor"):
        SpectrumPreserving(floor=0.0)
