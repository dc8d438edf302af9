"""The cost model finds the parameters that times came from, and chooses like the times on cells it has not seen."""

import pytest
import torch
from torch import nn

import rarefy
from needs import needs_native
from rarefy.core.site import find_sites
from rarefy.engine.cache import Record, TimingCache
from rarefy.engine.cell import Cell, bucket, cell_of
from rarefy.engine.cost import DENSE, CostModel, Demand, KernelCost, cost_model, demand_of, fit, fitted, guesses
from rarefy.engine.fill import fill, grid, scattered
from rarefy.engine.plan import Planner
from rarefy.engine.times import TimeTable
from rarefy.ops import KernelInfo, candidates, kernels

TRUE = KernelCost(overhead=0.02, rate=4e7, bandwidth=8e6)


def demands() -> list[Demand]:
    sizes = [(out, width, tokens) for out in (256, 1024, 4096) for width in (256, 2048) for tokens in (1, 8, 64, 512)]
    return [demand_of(Cell((o, w), o * w, (0,), t), None) for o, w, t in sizes]


def test_a_fit_finds_what_the_times_were_made_with() -> None:
    found = fit([(d, TRUE.ms(d)) for d in demands()])
    assert found.overhead == pytest.approx(TRUE.overhead, rel=0.05)
    assert found.rate == pytest.approx(TRUE.rate, rel=0.05)
    assert found.bandwidth == pytest.approx(TRUE.bandwidth, rel=0.05)


def test_one_disturbed_measurement_does_not_spoil_a_fit() -> None:
    points = [(d, TRUE.ms(d) * (10.0 if i == 5 else 1.0)) for i, d in enumerate(demands())]
    found = fit(points)
    for demand in demands():
        assert found.ms(demand) == pytest.approx(TRUE.ms(demand), rel=0.15)


def test_partly_filled_tiles_of_tokens_are_paid_for() -> None:
    info = KernelInfo("k", "spmm", "avx2", "fp32", "fp32", (4, 32, 128))
    cell = [Cell((64, 64), 1000, (0,), tokens) for tokens in (1, 32, 33)]
    assert [demand_of(c, info).work for c in cell] == [32_000.0, 32_000.0, 64_000.0]
    mask = KernelInfo("spmv-avx2-bitmask", "spmv", "avx2", "fp32", "fp32", (1, 8, 0))
    assert demand_of(cell[0], mask).work == 64 * 64


@pytest.mark.parametrize(
    ("name", "rows", "scattered", "in_strips"),
    [
        ("strip-r4", 4, 0.5904, 0.2),
        ("strip-r2", 2, 0.36, 0.2),
        ("strip-r16", 16, 0.9719, 0.5904),
        ("cell-r6", 6, 0.5904, 0.5904),
    ],
)
def test_blocks_are_multiplied_with_the_zeros_in_them(name: str, rows: int, scattered: float, in_strips: float) -> None:
    """In a weight of 20 % entries, each by itself or in strips of four rows."""
    kernel = KernelInfo(f"block8-avx512-{name}", "block8", "avx512", "int8", "int8", (rows, 64, 384))
    keep = torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0)) < 0.2
    strips = keep[::4].repeat_interleave(4, dim=0)
    for kept, share in ((keep, scattered), (strips, in_strips)):
        work = demand_of(cell_of(kept.float(), 64), kernel).work
        assert work == pytest.approx(share * 1024 * 1024 * 64, rel=0.07)


def test_blocks_that_do_not_fill_the_shape_are_taken_for_scattered() -> None:
    kernel = KernelInfo("block8-avx512-strip-r4", "block8", "avx512", "int8", "int8", (4, 64, 384))
    keep = torch.rand(1022, 1023, generator=torch.Generator().manual_seed(0)) < 0.2
    cell = cell_of(keep.float(), 64)
    assert cell.support[1] == -1
    assert demand_of(cell, kernel).work == pytest.approx(0.5904 * 1022 * 1023 * 64, rel=0.07)


def guessed(weights: str, activations: str, density: float, tokens: int) -> list[str]:
    """The best of the native kernels of a type by the guesses, for a weight of 2048 x 2048."""
    entries = int(density * 2048 * 2048)
    cell = Cell((2048, 2048), entries, (bucket(entries, 2048 * 2048), -1, -1, -1), tokens)
    names = [k.name for k in kernels() if (k.weights, k.activations) == (weights, activations) and k.isa == "avx2"]
    found = guesses(cell, [n for n in names if "fixed" not in n])
    assert set(found) == {n for n in names if "fixed" not in n}
    return [name for name, ms in found.items() if ms <= 1.001 * min(found.values())]


@needs_native
def test_guesses_of_weights_without_zeros_go_to_kernels_that_store_no_places() -> None:
    if not any(k.isa == "avx2" for k in kernels()):
        pytest.skip("this CPU has no AVX2")
    assert all("dense" in name or "neurons" in name for name in guessed("fp32", "fp32", 1.0, 1))
    assert all("dense" in name or "neurons" in name for name in guessed("int8", "int8", 1.0, 1))
    assert any("matvec" in name for name in guessed("int8", "int8", 1.0, 1))
    for tokens in (8, 64):  # those for few tokens read the weight for every eight and multiply slower
        assert "dense8-avx2" in guessed("int8", "int8", 1.0, tokens)
        assert not any("matvec" in name for name in guessed("int8", "int8", 1.0, tokens))


@needs_native
def test_guesses_of_half_the_weights_go_to_bit_masks() -> None:
    if not any(k.isa == "avx2" for k in kernels()):
        pytest.skip("this CPU has no AVX2")
    assert all("bitmask" in n or "expand" in n for n in guessed("fp32", "fp32", 0.5, 1))
    assert all("bitmask" in n or "expand" in n for n in guessed("int8", "int8", 0.5, 1))


def made_up(names: list[str]) -> dict[str, KernelCost]:
    rate = {name: 1e7 * (i + 1) for i, name in enumerate(names)}
    return {name: KernelCost(0.01 * (i + 1), rate[name], 1e9) for i, name in enumerate(names)}


def test_choices_on_unseen_cells_cost_no_more_than_the_best_by_the_times() -> None:
    infos = {k.name: k for k in kernels()}
    names = list(infos)[:3]
    truth = CostModel({DENSE: KernelCost(0.005, 1e8, 1e9), **made_up(names)}, infos)
    seen = [
        Cell((o, w), int(o * w * d), (0,), t)
        for o, w in ((128, 512), (1024, 256))
        for d in (0.1, 0.5)
        for t in (4, 256)
    ]
    points = [(cell, name, truth.ms(name, cell) or 0.0) for cell in seen for name in (DENSE, *names)]
    model = fitted(points)
    assert model.fitted == {DENSE, *names}
    for cell in (
        Cell((600, 300), 30_000, (0,), 100),
        Cell((2000, 2000), 900_000, (0,), 32),
        Cell((64, 64), 200, (0,), 4),
    ):
        guesses, times = model.predict(cell, (DENSE, *names)), truth.predict(cell, (DENSE, *names))
        chosen = min(guesses, key=lambda name: guesses[name])
        assert times[chosen] <= 1.1 * min(times.values())


def planned(measure: bool) -> Planner:
    model = nn.Sequential(nn.Linear(128, 96))
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    planner = Planner(measure=measure)
    for site in find_sites(model)[0]:
        planner.plan(site, [64])
    return planner


@needs_native
def test_without_measuring_the_model_decides_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.engine.plan.time_layer", lambda *_: pytest.fail("nothing may be timed"))
    weight = scattered((128, 128), 0.1)
    names = candidates(weight, 64)
    fast = names[-1]
    for i, tokens in enumerate((16, 32, 64, 128, 256)):
        cell = cell_of(weight, tokens)
        ms = {name: (0.1 if name == fast else 5.0) * (i + 1) for name in names}
        TimingCache().put(cell.key, Record({DENSE: 1.0 * (i + 1), **ms}, cell, frozenset(names)))
    (row,) = planned(measure=False).rows
    assert row.origin == "model"
    assert row.kernel == fast
    assert "expected" in row.reason


def test_a_model_compiled_without_measuring_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(128, 96), nn.GELU(), nn.Linear(96, 128))
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    x = torch.randn(64, 128)
    monkeypatch.setitem(rarefy.compile.__globals__, "interleaved", lambda *_, **__: pytest.fail("timed"))
    fast = rarefy.compile(model, x, measure=False)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
    assert "not timed" in str(fast.explain())


def test_kernels_that_cannot_win_are_not_timed_and_the_row_says_so() -> None:
    weight = scattered((96, 128), 0.1)
    names = candidates(weight, 512)
    if len(names) < 4:
        pytest.skip("too few kernels on this CPU to leave any out")
    slow = names[0]
    for i, tokens in enumerate((16, 32, 64, 128, 256)):
        cell = cell_of(weight, tokens)
        ms = {name: (50.0 if name == slow else 1.0) * (i + 1) for name in names}
        TimingCache().put(cell.key, Record({DENSE: 1.0, **ms}, cell, frozenset(names)))
    asked: list[list[str]] = []

    def measure(weight: torch.Tensor, bias: object, tokens: int, names: list[str]) -> dict[str, float]:
        asked.append(list(names))
        return {DENSE: 1.0, **dict.fromkeys(names, 0.5)}

    found = TimeTable(measure).times(weight, None, 512)
    assert slow not in asked[0]
    assert found.untimed == (slow,)
    assert "1 kernels not timed" in found.left_out
    again = TimeTable(measure).times(weight, None, 512)
    assert (again.origin, again.untimed, len(asked)) == ("cache", (slow,), 1)


def test_filling_times_every_cell_once_and_gives_a_model() -> None:
    cells = list(grid(((32, 64), (64, 32)), (0.5, 0.1), (1, 16)))
    fill(cells, TimingCache())
    assert len(TimingCache().layers()) == len(cells)
    model = cost_model(TimingCache())
    assert DENSE in model.fitted
    guess = model.ms(DENSE, Cell((48, 48), 48 * 48, (0,), 8))
    assert guess is not None and 0 < guess < 10


def test_a_fit_works_where_no_gradients_are_kept() -> None:
    points = [(d, TRUE.ms(d)) for d in demands()]
    with torch.inference_mode():
        inside = fit(points)
    with torch.no_grad():
        assert inside == fit(points)
    assert inside == fit(points)
    assert not torch.is_inference_mode_enabled()
