"""Which layouts language models get where nothing is timed: by times that are known, else by what kernels read."""

import pytest
import torch
from language_models import build

import rarefy
from needs import needs_native
from rarefy.engine import CompiledDecoder
from rarefy.engine.plan import LayerTimer
from rarefy.engine.times import TimeTable

pytestmark = needs_native


def untimed(model, **more):
    fast = rarefy.compile(model, {"input_ids": torch.zeros(1, 20, dtype=torch.long)}, **more)
    assert isinstance(fast, CompiledDecoder)
    return fast


def choices(fast):
    return [(row.name, row.tokens, row.kernel) for row in fast.explain().rows]


@pytest.mark.parametrize("cold", [False, True])
def test_what_was_timed_once_is_known_without_timing(monkeypatch, cold):
    monkeypatch.setattr("rarefy.engine.decoder.compile.streams", lambda *given: cold)
    timed = untimed(build("llama"))
    again = untimed(build("llama"), measure=False)
    assert choices(again) == choices(timed)
    assert {row.origin for row in timed.explain().rows} != {"cache"}
    assert {row.origin for row in again.explain().rows} == {"cache"}


def test_what_was_left_out_of_the_timing_stays_out(monkeypatch):
    monkeypatch.setattr(TimeTable, "_promising", lambda self, cell, names: names[-1:])
    monkeypatch.setattr(
        LayerTimer, "__call__", lambda self, weight, bias, tokens, names: dict.fromkeys(("dense", *names), 1.0)
    )
    timed = untimed(build("llama"))
    again = untimed(build("llama"), measure=False)
    assert choices(again) == choices(timed)


@pytest.mark.parametrize(("weights", "activations"), [("fp32", "fp32"), ("int8", "int8")])
def test_weights_without_zeros_get_kernels_that_store_no_places(weights, activations):
    model = build("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.where(parameter == 0, 0.01, parameter))
    fast = untimed(model, measure=False, weights=weights, activations=activations)
    rows = fast.explain().rows
    assert {row.origin for row in rows} == {"model"}
    assert rows
    assert all("dense" in row.kernel for row in rows)
    assert all("no kernel of these types" not in row.reason for row in rows)
