import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.solvers.column_budget import ColumnBudget


@pytest.mark.parametrize("pattern", [Layerwise(), Rowwise(), Block(2, 2)], ids=str)
@settings(max_examples=60, deadline=None)
@given(density=st.floats(0, 1), width=st.sampled_from([2, 4, 6, 16]))
def test_blocks_add_up_to_the_count(pattern: Pattern, density: float, width: int) -> None:
    weight = torch.ones(6, 16)
    budget = ColumnBudget(weight, pattern, density)
    kept = 0
    for start in range(0, 16, width):
        end = min(16, start + width)
        kept += pattern.count(6, end - start, budget.share(start, end))
    assert kept == pattern.count(6, 16, density)


def test_blocks_share_by_what_is_still_there() -> None:
    weight = torch.ones(4, 16)
    weight[:, :4] = 0.0
    weight[2:, 4:8] = 0.0
    budget = ColumnBudget(weight, Layerwise(), 20 / 64)  # 20 of the 40 that are left
    shares = [budget.share(start, start + 4) for start in range(0, 16, 4)]
    assert [round(share * 16) for share in shares] == [0, 4, 8, 8]
