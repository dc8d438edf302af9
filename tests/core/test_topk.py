import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.core import kth
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.topk import exact_count, keep_top


@st.composite
def rows_and_count(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    rows, n = draw(st.integers(0, 4)), draw(st.integers(1, 12))
    few = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1e-42, 0.5, 1.0, 3e38, math.inf])  # many ties
    values = draw(st.lists(st.lists(few, min_size=n, max_size=n), min_size=rows, max_size=rows))
    kind = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
    return torch.tensor(values).reshape(rows, n).to(kind), draw(st.integers(0, n))


@settings(max_examples=200, deadline=None)
@given(rows_and_count(), st.sampled_from([None, 1, 2, 5]))
def test_equals_a_stable_sort(drawn: tuple[torch.Tensor, int], sample: int | None) -> None:
    """sample: where rows are taken for long ones, the entries that are looked at first."""
    scores, count = drawn
    with pytest.MonkeyPatch.context() as patch:
        if sample is not None:
            patch.setattr(kth, "_LONG", 1)
            patch.setattr(kth, "_SAMPLE", sample)
            patch.setattr(kth, "_SHARE", 0)  # however much lies between
        kept = keep_top(scores, count)
    for row, mask in zip(scores.tolist(), kept.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], j))
        assert [j for j, keep in enumerate(mask) if keep] == sorted(order[:count])


@pytest.mark.parametrize(
    "kind", ["random", "sorted", "mostly one value", "half zero", "two values", "periodic", "blocks"]
)
def test_long_rows(kind: str) -> None:
    n, generator = 2**16 + 3, torch.Generator().manual_seed(0)
    x = torch.rand(n, generator=generator)
    few = torch.rand(n, generator=generator) < 0.05
    row = {
        "random": x,
        "sorted": torch.arange(n).float(),
        "mostly one value": torch.where(few, x, -1.0),
        "half zero": torch.where(x < 0.5, 0.0, x),
        "two values": few.float(),
        "periodic": (torch.arange(n) % 5).float() + 1e-3 * x,  # a sample of every fifth sees one of five
        "blocks": torch.cat([x[: n // 2], 5 + x[n // 2 :]]),
    }[kind]
    scores = torch.stack([row, row.flip(0)])
    order = scores.sort(dim=1, descending=True, stable=True).indices
    for count in (1, n // 100, n // 20, n // 3, n // 2, n // 2 + 1, n - n // 20, n - 1):
        wanted = torch.zeros(2, n, dtype=torch.bool).scatter_(1, order[:, :count], True)
        assert torch.equal(keep_top(scores, count), wanted)
        assert torch.equal(keep_top(scores[:1], count), wanted[:1])


@pytest.mark.parametrize("where", ["random", "tied"])
def test_a_long_row_is_not_ordered_as_a_whole(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.rand(1, 2**18, generator=torch.Generator().manual_seed(0))
    row = row if where == "random" else torch.where(row < 0.6, 0.0, row)
    longest: list[int] = []
    ordered = torch.Tensor.kthvalue

    def seen(tensor: torch.Tensor, *args: object, **more: object) -> object:
        longest.append(tensor.numel())
        return ordered(tensor, *args, **more)

    monkeypatch.setattr(torch.Tensor, "kthvalue", seen)
    assert int(keep_top(row, 2**17).sum()) == 2**17
    assert max(longest, default=0) < 2**18 // 20


def test_scores_with_a_gradient_and_in_other_order_in_memory() -> None:
    wanted = [[False, True, True, False], [True, False, False, True]]
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 1.0, 2.0, 5.0]])
    assert keep_top(scores.requires_grad_(), 2).tolist() == wanted
    assert keep_top(scores.detach().t().contiguous().t(), 2).tolist() == wanted


def test_nan_has_no_place_in_an_order() -> None:
    scores = torch.zeros(3, 4)
    scores[2, 1] = math.nan
    with pytest.raises(DataError, match="row 2 of the scores holds NaN"):
        keep_top(scores, 2)
    scores[1, 3] = math.nan
    with pytest.raises(DataError, match="row 1 of the scores holds NaN"):
        keep_top(scores, 2)


def test_no_rows_and_no_entries() -> None:
    assert keep_top(torch.zeros(0, 4), 2).shape == (0, 4) and keep_top(torch.zeros(0, 4), 2).dtype == torch.bool
    assert keep_top(torch.zeros(3, 0), 0).shape == (3, 0)


@pytest.mark.parametrize("count", [-1, 5])
def test_count_out_of_range(count: int) -> None:
    with pytest.raises(SparsityError, match=r"outside \[0, 4\]"):
        keep_top(torch.zeros(2, 4), count)


@pytest.mark.parametrize(
    ("size", "density", "count"),
    [(10, 0.3, 3), (10, 0.25, 3), (10, 0.0, 0), (10, 1.0, 10), (3, 0.5, 2), (1000, 1 - 0.7, 300), (7, 0.07, 0)],
)
def test_exact_count_rounds_halves_up(size: int, density: float, count: int) -> None:
    assert exact_count(size, density) == count


@pytest.mark.parametrize("density", [-0.01, 1.01, math.nan])
def test_exact_count_refuses_other_densities(density: float) -> None:
    with pytest.raises(SparsityError, match="density"):
        exact_count(10, density)


class _Top(torch.nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return keep_top(scores, self.count)


@pytest.mark.parametrize("width", [5, 300_000])
def test_an_exported_graph_keeps_the_same_and_whatever_is_no_number(width: int) -> None:
    scores = torch.randint(0, 6, (3, width), generator=torch.Generator().manual_seed(0)).float()
    rows = torch.export.Dim("rows", min=2)
    for count in (0, 1, width // 2, width):
        graph = torch.export.export(_Top(count), (scores,), dynamic_shapes=({0: rows},), strict=False).module()
        for some in (scores, scores[:2]):
            assert torch.equal(graph(some), keep_top(some, count))
        broken = scores.clone()
        broken[1, 2] = math.nan
        assert bool(graph(broken)[1, 2]) and torch.equal(graph(broken)[0], keep_top(scores, count)[0])
