import math

import pytest
import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ShapeError
from rarefy.core.protocols import Pattern
from rarefy.patterns.block import Block
from rarefy.patterns.unstructured import Layerwise


@pytest.mark.parametrize(("r", "c"), [(4, 1), (1, 4), (2, 3), (8, 12)])
def test_whole_blocks_with_the_largest_sums(r: int, c: int) -> None:
    def check(pattern: Pattern) -> None:
        scores = torch.randn(8, 12)
        kept = pattern.select(scores, 0.5)
        blocks = [(i, j) for i in range(0, 8, r) for j in range(0, 12, c)]
        count = math.floor(len(blocks) * 0.5 + 0.5)
        ranked = sorted(blocks, key=lambda b: -float(scores[b[0] : b[0] + r, b[1] : b[1] + c].sum()))
        expected = torch.zeros(8, 12, dtype=torch.bool)
        for i, j in ranked[:count]:
            expected[i : i + r, j : j + c] = True
        assert torch.equal(kept, expected)

    assert_beats_impostor(check, Block(r, c), Layerwise())


def test_a_block_that_is_partly_gone_counts_by_what_is_left() -> None:
    scores = torch.tensor([[5.0, -math.inf, 3.0, 3.0, -math.inf, -math.inf]])
    assert Block(1, 2).select(scores, 1 / 3).tolist() == [[False, False, True, True, False, False]]
    assert Block(1, 2).select(scores, 2 / 3).tolist() == [[True, True, True, True, False, False]]
    assert Block(1, 2).select(scores.flip(1), 2 / 3).tolist() == [[False, False, True, True, True, True]]


def test_broken_blocks_are_not_allowed() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert Block(2, 2).allows(mask)
    mask[3, 3] = False
    assert not Block(2, 2).allows(mask)


@pytest.mark.parametrize(("r", "c"), [(4, 1), (1, 4), (2, 3), (4, 3)])
def test_exactly_the_masks_of_whole_blocks_are_allowed(r: int, c: int) -> None:
    blocks = torch.rand(3, 5, generator=torch.Generator().manual_seed(r)) < 0.5
    whole = blocks.repeat_interleave(r, 0).repeat_interleave(c, 1)
    assert Block(r, c).allows(whole)
    for at in range(whole.numel()):
        broken = whole.clone()
        broken.view(-1)[at] ^= True
        assert not Block(r, c).allows(broken)


@pytest.mark.parametrize(("shape", "axis"), [((6, 4), r"6 rows \(out\)"), ((8, 3), r"3 columns \(in\)")])
def test_sides_that_do_not_divide(shape: tuple[int, int], axis: str) -> None:
    with pytest.raises(ShapeError, match=f"{axis}, not a multiple of"):
        Block(4, 2).select(torch.randn(shape), 0.5)


@pytest.mark.parametrize(("r", "c"), [(0, 1), (1, 0), (-2, 4)])
def test_impossible_blocks(r: int, c: int) -> None:
    with pytest.raises(ShapeError, match="both sides must be at least 1"):
        Block(r, c)
