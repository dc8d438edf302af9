"""Times on disk: found again, a machine its own, safe with several processes, and never in the way."""

import json
import multiprocessing
import sqlite3
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import rarefy
from needs import needs_native
from rarefy.core.site import find_sites
from rarefy.engine import cache as cache_module
from rarefy.engine.cache import Record, TimingCache, cache_folder
from rarefy.engine.cell import Cell, Types, bucket, cell_of
from rarefy.engine.plan import Planner

CELL = Cell((8, 16), 32, (16, 0, 0, -1), 128)
RECORD = Record({"dense": 2.0, "a": 1.0}, CELL, frozenset({"a", "b"}))


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    assert cache.get(CELL.key) is None
    assert not cache.path.exists()  # looking makes no file
    cache.put(CELL.key, RECORD)
    assert TimingCache(tmp_path).get(CELL.key) == RECORD
    assert cache.layers() == [RECORD]


def test_another_machine_or_thread_count_knows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = TimingCache(tmp_path)
    cache.put(CELL.key, RECORD)
    torch.set_num_threads(3)
    assert cache.get(CELL.key) is None
    torch.set_num_threads(1)
    assert cache.get(CELL.key) == RECORD
    monkeypatch.setattr("rarefy.engine.machine._fixed", lambda: {"cpu": "another"})
    assert cache.get(CELL.key) is None
    assert cache.layers() == []
    assert cache.describe()["cells"] == 1


def test_a_schema_that_is_no_text_is_damage_like_any_other(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    cache.put("key", RECORD)
    whole = cache.path.read_bytes()
    assert b"CREATE TABLE" in whole
    cache.path.write_bytes(whole.replace(b"CREATE TABLE", b"CREAT\xc4 TABLE"))
    with pytest.warns(UserWarning, match="its schema is no text"):
        assert cache.get("key") is None
    cache.put("key", RECORD)
    assert cache.get("key") == RECORD


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"", b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_file_is_thrown_away_and_built_again(damage: bytes, tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    cache.path.write_bytes(damage)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert cache.get(CELL.key) is None
        cache.put(CELL.key, RECORD)
    assert cache.get(CELL.key) == RECORD
    assert not damage or any("damaged" in str(w.message) for w in said)


def test_a_later_layout_and_lost_tables_are_damage_too(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    for statement in ("PRAGMA user_version = 99", "DROP TABLE times"):
        cache.put(CELL.key, RECORD)
        with sqlite3.connect(cache.path) as connection:
            connection.execute(statement)
        with pytest.warns(UserWarning, match="thrown away"):
            assert cache.get(CELL.key) is None


NONSENSE = (
    *("", "[]", "{}"),
    '{"ms": {"dense": -1}, "cell": null, "tried": []}',
    '{"ms": {"a": "x"}, "cell": null, "tried": []}',
    '{"ms": {"a": 1}, "cell": {"shape": [1]}, "tried": []}',
    '{"ms": {"a": NaN}, "cell": null, "tried": []}',
)


@pytest.mark.parametrize("text", NONSENSE)
def test_a_record_that_makes_no_sense_is_unknown(text: str, tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    cache.put(CELL.key, RECORD)
    with sqlite3.connect(cache.path) as connection:
        connection.execute("UPDATE times SET record = ?", (text,))
    assert cache.get(CELL.key) is None
    assert cache.layers() == []


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache_module._warn_once.cache_clear()
    cache = TimingCache(blocked)
    with pytest.warns(UserWarning, match="RAREFY_CACHE_DIR"):
        cache.put(CELL.key, RECORD)
    assert cache.get(CELL.key) is None
    assert cache.clear() == 0


def _write(folder: Path, worker: int, count: int) -> None:
    cache = TimingCache(folder)
    for i in range(count):
        cache.put(f"cell {worker} {i}", Record({"dense": 1.0 + i}, None, frozenset()))


def test_processes_write_side_by_side_and_nothing_is_lost(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path, i, 25)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [w.exitcode for w in workers] == [0] * 4
    cache = TimingCache(tmp_path)
    assert cache.describe()["cells"] == 100
    assert cache.get("cell 3 24") == Record({"dense": 25.0}, None, frozenset())
    assert cache.clear() == 100
    assert not cache.path.exists()


def test_the_folder_is_the_one_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.setenv("RAREFY_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().name == "rarefy"


def test_cells_tell_densities_and_patterns_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(64, 64, generator=generator)
    scattered = (scores > 0.75).float()
    tiled = (torch.rand(16, 64, generator=generator) > 0.75).float().repeat_interleave(4, 0)
    assert cell_of(scattered, 8).support[0] == pytest.approx(bucket(1, 4), abs=1)
    assert cell_of(tiled, 8).support[0] == pytest.approx(bucket(1, 4), abs=1)
    assert cell_of(scattered, 8).key != cell_of(tiled, 8).key
    again = (torch.rand(64, 64, generator=generator) > 0.75).float()
    assert abs(cell_of(again, 8).support[0] - cell_of(scattered, 8).support[0]) <= 1
    keys = {
        cell_of(scattered, tokens, Types(weights, static=static), bias=bias).key
        for tokens in (1, 8)
        for weights in ("fp32", "int8")
        for static in (True, False)
        for bias in (True, False)
    }
    assert len(keys) == 16


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing should be timed")


def layers(model: nn.Module, counts: list[int]) -> Planner:
    planner = Planner()
    for site in find_sites(model)[0]:
        planner.plan(site, counts)
    return planner


def test_a_second_plan_times_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    first = layers(model, [1, 32])
    assert {row.origin for row in first.rows} == {"measured"}
    monkeypatch.setattr("rarefy.engine.plan.time_layer", refuse)
    second = layers(model, [1, 32])
    assert {row.origin for row in second.rows} == {"cache"}
    for one, other in zip(first.rows, second.rows, strict=True):
        assert (one.kernel, one.candidates, one.dense_ms) == (other.kernel, other.candidates, other.dense_ms)
    assert "cache" in str(rarefy.engine.Explanation(tuple(second.rows), "", (), (), 1))


@needs_native
def test_a_new_kernel_is_timed_though_the_others_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 48))
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    row = layers(model, [32]).rows[0]
    cache = TimingCache()
    (record,) = cache.layers()
    assert record.cell is not None
    fewer = {name: ms for name, ms in record.ms.items() if name in ("dense", next(iter(row.candidates)))}
    cache.put(record.cell.key, Record(fewer, record.cell, frozenset(fewer) - {"dense"}))
    again = layers(model, [32]).rows[0]
    assert again.origin == "measured"
    assert again.candidates.keys() == row.candidates.keys()


def test_a_compiled_model_is_compiled_again_without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))
    rarefy.prune(model, "magnitude", sparsity=0.8, measure=False)
    x = torch.randn(32, 64)
    first = rarefy.compile(model, x).explain()
    monkeypatch.setattr("rarefy.engine.plan.time_layer", refuse)
    monkeypatch.setitem(rarefy.compile.__globals__, "interleaved", refuse)
    second = rarefy.compile(model, x)
    assert second.explain().whole[0]["origin"] == "cache"
    assert second.explain().whole[0]["runs"] == first.whole[0]["runs"]
    torch.testing.assert_close(second(x), model(x), rtol=1e-5, atol=1e-5)
    denser = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64))
    rarefy.prune(denser, "magnitude", sparsity=0.5, measure=False)
    with pytest.raises(
        AssertionError, match="nothing should be timed"
    ):  # other densities are other cells, and those would have to be timed
        rarefy.compile(denser, x)


def test_records_are_plain_json(tmp_path: Path) -> None:
    cache = TimingCache(tmp_path)
    cache.put(CELL.key, RECORD)
    with sqlite3.connect(cache.path) as connection:
        ((text,),) = connection.execute("SELECT record FROM times")
        ((said,),) = connection.execute("SELECT said FROM machines")
    assert json.loads(text)["ms"] == {"dense": 2.0, "a": 1.0}
    assert {"cpu", "features", "build", "threads", "torch"} <= json.loads(said).keys()
