"""The time of a token: what is divided by what, who takes part, and that a model's places are not exceeded."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import rarefy
from needs import needs_native
from rarefy.core.errors import DataError
from rarefy.engine import writing
from rarefy.engine.writing import time_writing
from transformers_tiny import ids, tiny

pytest.importorskip("transformers")
pytestmark = needs_native


@pytest.fixture(scope="module")
def pair():
    """(compiled sparse model, the dense one)."""
    dense, sparse = tiny("Llama"), tiny("Llama")
    rarefy.prune(sparse, "magnitude", sparsity=0.5, measure=False)
    return rarefy.compile(sparse, {"input_ids": ids()}, measure=False), dense


def test_a_token_takes_what_more_tokens_take_longer_than_one(pair, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(writing, "_seconds", lambda write, tokens: {1: 0.5, 9: 0.9}[tokens])
    monkeypatch.setattr(writing, "time", SimpleNamespace(sleep=lambda s: now.append(s)))
    found = time_writing(*pair, {"input_ids": ids()}, tokens=8, rounds=2)
    assert found.rounds == {name: (pytest.approx(50.0),) * 2 for name in ("rarefy", "torch")}
    assert found.to_dict()["timed"]["torch"]["ratio"] == 1.0
    monkeypatch.setattr(writing, "_seconds", lambda write, tokens: {1: 0.95, 9: 0.9}[tokens])
    assert time_writing(*pair, ids(), tokens=8, rounds=1).rounds["rarefy"] == (pytest.approx(100.0),)


def test_compiled_tokens_are_those_of_the_sparse_model(pair):
    fast, dense = pair
    found = time_writing(fast, fast.source, {"input_ids": ids()}, tokens=6, rounds=1, int8=True)
    assert found.same["rarefy"] == found.same["torch"] == 1.0
    assert set(found.rounds) == {"rarefy", "torch", "rarefy-int8"}
    assert found.prompt == 12 and all(len(r) == 1 and r[0] > 0 for r in found.rounds.values())
    assert time_writing(fast, dense, {"input_ids": ids()}, tokens=12, rounds=1).same["torch"] < 1.0
    assert "tokens/s" in str(found)


def test_who_cannot_write_is_named_and_spoils_nothing(pair):
    class Mute(nn.Module):
        """No `generate`."""

    found = time_writing(pair[0], Mute(), ids(), tokens=2, rounds=1)
    assert "generate" in found.skipped["torch"] and set(found.rounds) == {"rarefy"}
    assert "torch: AttributeError" in str(found)


def test_prompt_leaves_places_for_what_is_written():
    model = tiny("Llama", max_position_embeddings=16)
    rarefy.prune(model, "magnitude", sparsity=0.5, measure=False)
    fast = rarefy.compile(model, {"input_ids": ids()}, measure=False)
    found = time_writing(fast, model, {"input_ids": ids()}, tokens=8, rounds=1)
    assert found.prompt == 16 - 8 - 1 and found.same["rarefy"] == 1.0


def test_benchmark_times_writing_of_decoders_only(pair):
    net = nn.Linear(8, 8).eval()
    assert rarefy.benchmark(net, torch.zeros(2, 8), rounds=1).writing is None
    report = rarefy.benchmark(pair[0], {"input_ids": ids()}, rounds=1, new_tokens=2)
    assert report.to_dict()["writing"]["tokens"] == 2 and "a token behind" in str(report)
    assert rarefy.benchmark(pair[0], {"input_ids": ids()}, rounds=1, new_tokens=0).writing is None
    with pytest.raises(DataError, match="new_tokens=-1"):
        rarefy.benchmark(net, torch.zeros(2, 8), new_tokens=-1)
