"""Layers of a model that no cache holds are timed as they come from memory, under a key of their own."""

from pathlib import Path

import pytest
import torch
from torch import nn

import rarefy
from needs import needs_native
from rarefy.engine import cold, plan
from rarefy.engine.cache import Record, TimingCache, known_layers
from rarefy.engine.cell import Cell, Types
from rarefy.engine.decoder import choose_selecting
from transformers_tiny import ids, tiny


def test_the_largest_cache_is_read_from_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {"index0": "48K\n", "index3": "32M\n", "index2": "1024K\n", "odd": "many\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(text)
    assert [cold._size(tmp_path / name) for name in ("index0", "index3", "odd", "none")] == [48 * 2**10, 2**25, 0, 0]
    monkeypatch.setattr(cold, "Path", lambda _: tmp_path)
    cold.last_level_cache.cache_clear()
    try:
        assert cold.last_level_cache() == 2**25
        assert cold.evictor()().item() == 2 * 2**25 / 4, "so many floats are read"
    finally:
        monkeypatch.undo()
        cold.last_level_cache.cache_clear()


def test_a_model_streams_when_its_type_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold, "last_level_cache", lambda: 1000)
    model = nn.Linear(30, 33, bias=False)
    assert [cold.streams(model, weights) for weights in ("fp32", "bf16", "int8", "int4")] == [True, False, False, False]
    assert cold.streams(nn.Linear(30, 200), "int4")


def test_cold_times_are_kept_apart_and_teach_the_cost_model_nothing(tmp_path: Path) -> None:
    cells = [Cell((64, 32), 1024, (8, 0, 0, 0), 1, Types("int8", "int8", cold=cold)) for cold in (False, True)]
    assert cells[0].key != cells[1].key
    cache = TimingCache(tmp_path)
    for cell, ms in zip(cells, (1.0, 2.0), strict=True):
        cache.put(cell.key, Record({"dense": ms}, cell, frozenset()))
    for cell, ms in zip(cells, (1.0, 2.0), strict=True):
        found = TimingCache(tmp_path).get(cell.key)
        assert found is not None and found.cell == cell and found.ms == {"dense": ms}
    assert [ms for _, _, ms in known_layers(TimingCache(tmp_path))] == [1.0]


@needs_native
@pytest.mark.parametrize("large", [True, False])
def test_a_decoder_is_timed_as_it_will_run(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    seen: dict[int, set[bool]] = {}
    right = plan.time_layer

    def watched(weight, bias, tokens, names=None, *, before=None, **more):
        seen.setdefault(tokens, set()).add(before is not None)
        return right(weight, bias, tokens, names, before=before, **more)

    monkeypatch.setattr(plan, "time_layer", watched)
    monkeypatch.setattr(cold, "last_level_cache", lambda: 1000 if large else 2**30)
    model = tiny("Llama")
    fast = rarefy.compile(model, {"input_ids": ids(1, 12)})
    assert {tokens: of.pop() for tokens, of in seen.items() if len(of) == 1} == {
        tokens: large and tokens <= 8 for tokens in seen
    } and {1, 8, 32} <= seen.keys()
    with torch.no_grad():
        assert torch.allclose(fast(ids(1, 12)).logits, model(ids(1, 12)).logits, atol=1e-4)


@needs_native
@pytest.mark.parametrize("large", [True, False])
def test_selected_layers_are_timed_the_same_way(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    before: list[object] = []
    right = choose_selecting.interleaved

    def watched(*given, **more):
        before.append(more["before"])
        return right(*given, **more)

    monkeypatch.setattr(choose_selecting, "interleaved", watched)
    monkeypatch.setattr(cold, "last_level_cache", lambda: 1000 if large else 2**30)
    model = tiny("Llama")
    rarefy.sparsify_activations(model, "teal", sparsity=0.5, data=[{"input_ids": ids(16, 64)}])
    rarefy.compile(model, {"input_ids": ids(1, 12)})
    assert before and all((one is not None) == large for one in before)
