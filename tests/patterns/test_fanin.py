import torch

from contracts.impostor import assert_beats_impostor
from rarefy.core.protocols import Pattern
from rarefy.patterns.fanin import FanIn
from rarefy.patterns.unstructured import Layerwise


def test_every_row_keeps_equally_many_and_its_best() -> None:
    def check(pattern: Pattern) -> None:
        scores = torch.randn(6, 10) + torch.arange(6.0)[:, None]  # later rows score higher throughout
        kept = pattern.select(scores, 0.34)
        assert kept.sum(1).tolist() == [3] * 6
        for row, mask in zip(scores, kept, strict=True):
            assert set(mask.nonzero().flatten().tolist()) == set(row.topk(3).indices.tolist())

    assert_beats_impostor(check, FanIn(), Layerwise())


def test_unequal_rows_are_not_allowed() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert not FanIn().allows(mask)
    assert FanIn().allows(mask[:1])
    assert FanIn().allows(mask[:0])
