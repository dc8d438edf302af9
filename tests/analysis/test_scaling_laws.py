"""The two scaling laws: fitted to runs whose law is known."""

from itertools import pairwise

import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.analysis.average_parameter_law import AverageParameterLaw, average_parameters, compute_window
from rarefy.analysis.sparse_scaling_law import SparseScalingLaw, mean_density
from rarefy.core.errors import DataError, SparsityError
from rarefy.schedules.cubic import Cubic

RUNS = [(s, n, d) for s in (0.0, 0.5, 0.75, 0.875) for n in (1e7, 4e7, 1.6e8, 6e8) for d in (1e9, 1e10, 1e11)]
HELD_OUT = [(0.25, 2e7, 3e9), (0.8, 3e8, 3e10), (0.9, 1e8, 5e10), (0.6, 1e9, 2e11)]


def noisy(values: list[float], noise: float = 0.01) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.tensor(values, dtype=torch.float64) * (1 + noise * torch.randn(len(values), generator=generator))


def test_the_fit_of_known_runs_predicts_others() -> None:
    law = SparseScalingLaw()
    losses = noisy([law.predict(*run) for run in RUNS], 0.003)

    def check(kind: str) -> None:
        sparsity, n, d = (list(column) for column in zip(*RUNS, strict=True))
        found = SparseScalingLaw.fit(sparsity if kind == "fitted" else [0.0] * len(RUNS), n, d, losses, starts=8)
        for run in HELD_OUT:
            assert found.predict(*run) == pytest.approx(law.predict(*run), rel=0.01)
        assert found.b_n == pytest.approx(law.b_n, rel=0.15)

    assert_beats_impostor(check, "fitted", "blind to sparsity")


def test_the_published_coefficients_give_the_published_multipliers() -> None:
    law = SparseScalingLaw()
    found = [law.size_multiplier(s) for s in (0.5, 0.75, 0.875)]
    assert found == pytest.approx([1.6, 2.2, 2.6], abs=0.05)
    dense = law.predict(0.0, 1e8 * found[1], 1e10)
    assert dense == pytest.approx(law.predict(0.75, 1e8, 1e10))


def test_the_optimal_sparsity_grows_with_the_budget_and_is_the_least_of_a_grid() -> None:
    law = SparseScalingLaw()
    found = [law.optimal_sparsity(1e8, flops) for flops in (1e19, 1e20, 1e21, 1e22)]
    assert all(b > a for a, b in pairwise(found))
    grid = [i / 1000 for i in range(999)]
    losses = [law._at(s, 1e8, 1e21, (0.25, 0.75)) for s in grid]
    assert found[2] == pytest.approx(grid[losses.index(min(losses))], abs=1e-3)


def test_the_mean_density_is_that_of_the_schedule() -> None:
    curve = Cubic(1.0, 0.2, 2500, 7500)
    assert mean_density(0.8) == pytest.approx(sum(curve(t) for t in range(10000)) / 10000, abs=1e-4)


def test_the_mean_number_of_parameters_is_the_integral() -> None:
    curve = Cubic(1e6, 2e5, 100, 400)
    counts = [curve(t) for t in range(500)]
    assert average_parameters(counts, list(range(501))) == pytest.approx(sum(counts) / 500)
    with pytest.raises(DataError, match="need 3 steps"):
        average_parameters([1, 2], [0, 1])


def test_one_law_of_mean_parameters_fits_dense_and_sparse_runs_where_final_ones_do_not() -> None:
    law = AverageParameterLaw()
    runs = [(n, s, d) for n in (1e8, 4e8, 1.6e9) for s in (0.0, 0.5, 0.8) for d in (2e9, 1e10, 5e10)]
    means = [n * mean_density(s) for n, s, _ in runs]
    finals = [n * (1 - s) for n, s, _ in runs]
    data = [d for *_, d in runs]
    losses = noisy([law.predict(m, d) for m, d in zip(means, data, strict=True)], 0.001)
    found = AverageParameterLaw.fit(means, data, losses)
    other = AverageParameterLaw.fit(finals, data, losses)
    sparse = [i for i, run in enumerate(runs) if run[1] > 0]
    error = sum(abs(found.predict(means[i], data[i]) - float(losses[i])) for i in sparse)
    worse = sum(abs(other.predict(finals[i], data[i]) - float(losses[i])) for i in sparse)
    assert worse > 3 * error
    assert found.alpha == pytest.approx(law.alpha, rel=0.1) and found.e == pytest.approx(law.e, rel=0.1)


def test_the_window_is_exact_in_compute() -> None:
    first, last = compute_window(0.8, 100_000)
    curve = Cubic(1.0, 0.2, round(first), round(last))
    cost = torch.tensor([curve(t) for t in range(100_000)], dtype=torch.float64).cumsum(0)
    assert float(cost[round(first)] / cost[-1]) == pytest.approx(0.25, abs=1e-4)
    assert float(cost[round(last)] / cost[-1]) == pytest.approx(0.75, abs=1e-4)


def test_bad_runs_are_named() -> None:
    with pytest.raises(DataError, match="7 coefficients"):
        SparseScalingLaw.fit([0.5], [1e8], [1e9], [3.0])
    with pytest.raises(DataError, match="positive and finite"):
        AverageParameterLaw.fit([1e8, -1], [1, 1], [3.0, 2.0])
    with pytest.raises(DataError, match="one number for each of the 2 runs"):
        AverageParameterLaw.fit([1e8], [1, 1], [3.0, 2.0])
    with pytest.raises(SparsityError, match="outside"):
        SparseScalingLaw().predict(1.0, 1e8, 1e9)
