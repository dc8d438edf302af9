"""Quantiles from a histogram of bits: against the exact ones, and how many tokens they take."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.calibration.block_trials import count_tokens, sample
from rarefy.calibration.magnitudes import Magnitudes, tokens_needed
from rarefy.calibration.taps import Kept, Mean, tap
from rarefy.core.errors import DataError, SparsityError


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(-12, 12), st.integers(0, 99))
def test_close_to_the_exact_quantile_at_any_scale(share: float, scale: int, seed: int) -> None:
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(seed)).abs() * 10.0**scale
    seen = Magnitudes()
    for part in x.split(170):
        seen.add(part)
    found = seen.quantile(share)
    assert found == pytest.approx(float(x.flatten().quantile(share)), rel=0.02)
    assert float((x <= found).float().mean()) == pytest.approx(share, abs=0.004)
    assert seen.tokens == 500


def test_memory_does_not_grow_with_the_text() -> None:
    seen, before = Magnitudes(), Magnitudes().counts.numel()
    seen.add(torch.rand(10_000, 4))
    assert seen.counts.numel() == before and int(seen.counts.sum()) == 40_000


def test_where_most_are_zero_the_quantile_is_zero() -> None:
    x = torch.zeros(400, 10)
    x[:, 0] = 1.0
    seen = Magnitudes()
    seen.add(x)
    assert seen.quantile(0.5) == 0.0 and seen.quantile(0.0) == 0.0
    assert seen.quantile(0.95) == pytest.approx(1.0, rel=0.01)


def test_too_short_a_text_says_how_many_tokens_it_takes() -> None:
    seen = Magnitudes()
    seen.add(torch.rand(100, 4096))
    assert tokens_needed(0.9) == 160 and tokens_needed(0.5) == 32 and tokens_needed(0.0) == 1
    assert 0.49 < seen.quantile(0.5) < 0.51
    with pytest.raises(DataError, match=r"100 tokens are too few for the 0\.9 quantile, which takes 160"):
        seen.quantile(0.9)
    with pytest.raises(SparsityError, match="outside"):
        seen.quantile(1.0)
    with pytest.raises(DataError, match="NaN or infinity"):
        seen.add(torch.tensor([[float("nan")]]))


def test_taps_see_no_padding() -> None:
    layer, mean, kept = torch.nn.Linear(3, 3), Mean(), Kept(lambda x: x > 0)
    x = torch.ones(2, 4, 3)
    x[1, 2:] = 100.0
    batch = {"input": x, "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}

    def run(model: torch.nn.Module, given: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return model(given["input"])

    tap(layer, [batch], inputs={layer: mean.add}, run=run)
    tap(layer, [batch], outputs={layer: kept.add}, run=run)
    assert mean.tokens == 6 and torch.equal(mean.mean(), torch.ones(3, dtype=torch.float64))
    assert kept.seen == 18 and count_tokens([batch]) == 6


def test_a_sample_takes_whole_rows_up_to_the_tokens_asked() -> None:
    batches = [{"input_ids": torch.zeros(4, 10)}, {"input_ids": torch.zeros(4, 10)}]
    assert [b["input_ids"].shape[0] for b in sample(batches, 45)] == [4, 1]
    assert [b["input_ids"].shape[0] for b in sample(batches, 10_000)] == [4, 4]
    assert sample([torch.zeros(8, 5)], 11)[0].shape == (3, 5)
