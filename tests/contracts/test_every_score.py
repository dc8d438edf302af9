"""Every score: a finite number an entry, the same for the same input, inputs untouched, missing evidence named."""

import pytest
import torch

from contracts.examples import all_of, evidence_of, make
from rarefy.core.errors import EvidenceError
from rarefy.core.evidence import Evidence
from rarefy.core.registry import Entry

EVERY = pytest.mark.parametrize("entry", all_of("score"))


def weight_and_inputs(kind: str = "random") -> tuple[torch.Tensor, torch.Tensor]:
    weight, x = torch.randn(8, 16), torch.randn(32, 16)
    if kind == "zero columns":
        weight[:, 2], x[:, 5], weight[3] = 0.0, 0.0, 0.0
    if kind == "extreme":
        weight[0, 0], weight[1, 1], weight[2, 2] = 1e15, -1e15, 1e-42
        x[:, 0], x[:, 1] = 1e12, 1e-30
    return weight, x


@EVERY
@pytest.mark.parametrize("kind", ["random", "zero columns", "extreme"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_and_of_the_weights_shape(entry: Entry, kind: str, dtype: torch.dtype) -> None:
    weight, x = weight_and_inputs(kind)
    weight = weight.to(dtype)
    score = make(entry)(weight, evidence_of(weight, x))
    assert score.shape == weight.shape
    assert score.is_floating_point() and torch.finfo(score.dtype).bits >= 32
    assert score.isfinite().all()


@EVERY
def test_same_input_same_score_and_nothing_touched(entry: Entry) -> None:
    weight, x = weight_and_inputs()
    evidence = evidence_of(weight, x, seed=3)
    before = {need: value.clone() for need, value in evidence.collected.items()}
    copy = weight.clone()
    first = make(entry)(weight, evidence)
    torch.randn(7)  # the global generator moves on
    assert torch.equal(first, make(entry)(weight, evidence))
    assert torch.equal(weight, copy)
    assert all(torch.equal(value, before[need]) for need, value in evidence.collected.items())


@EVERY
def test_needs_are_honest(entry: Entry) -> None:
    """What is declared is enough, and without any of it the error names the need and the layer."""
    score = make(entry)
    weight, x = weight_and_inputs()
    full = evidence_of(weight, x)
    enough = Evidence("layer", {need: full[need] for need in score.needs}, full.tokens)
    assert score(weight, enough).shape == weight.shape
    for need in score.needs:
        left = {k: v for k, v in enough.items() if k is not need}
        with pytest.raises(EvidenceError, match=need.name) as caught:
            score(weight, Evidence("block.3.fc", left, full.tokens))
        assert "block.3.fc" in str(caught.value) and "data" in str(caught.value)
