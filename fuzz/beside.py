"""What lies beside weights, hostile: compiled choices, selectors, configs, reports, journals, cells, caches.

What is a cache is never an error: it is unknown, and made again.
"""

import hashlib
import io
import json
import random
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import torch
from bounds import bounded
from damage import damaged, lied, text

import rarefy
from rarefy import ops
from rarefy.core.errors import RarefyError
from rarefy.engine import pack_file, shared
from rarefy.engine.cache import TimingCache, _record
from rarefy.formats.folder import read_contents
from rarefy.recipes import folder_target
from rarefy.recipes.comparison.cell import Outcome
from rarefy.recipes.comparison.store import SCHEMA as CELL
from rarefy.recipes.comparison.store import CellStore
from rarefy.recipes.comparison.subject import kind_of_folder
from rarefy.recipes.encoder import pooling_of
from rarefy.recipes.report_file import SCHEMA as REPORT
from rarefy.recipes.report_file import read_report
from rarefy.recipes.store_activations import restore_activations, weights_alone
from rarefy.recipes.store_config import class_of, config_of
from rarefy.recipes.store_engine import read_engine

_FOLDER = corpus.folder()


def case(rng: random.Random) -> None:
    rng.choices(_KINDS, _SHARES)[0](rng)


def _hostile(said: Any, rng: random.Random) -> bytes:
    """JSON that lies, or whose bytes are damaged."""
    if rng.random() < 0.75:
        return text(lied(said, rng), rng)
    return damaged(json.dumps(said).encode(), rng)


def _folder(files: corpus.Files, rng: random.Random, *, lying: str) -> tuple[Path, int]:
    """(a folder of `files` where one of them, mostly `lying`, is hostile; bytes of all)"""
    place, files = _FOLDER / lying.replace(".", "-"), dict(files)
    place.mkdir(exist_ok=True)
    name = lying if rng.random() < 0.85 else rng.choice(list(files))
    as_json = name.endswith(".json") and rng.random() < 0.9
    files[name] = _hostile(json.loads(files[name]), rng) if as_json else damaged(files[name], rng)
    for old in place.iterdir():
        old.unlink()
    for file, data in files.items():
        (place / file).write_bytes(data)
    return place, sum(map(len, files.values()))


def _engine(rng: random.Random) -> None:
    place, size = _folder(corpus.compiled(), rng, lying="engine.json")
    found = bounded(lambda: read_engine(place), size)
    if found is not None:
        choices, explanation = found
        choices.why_not_here()
        assert isinstance(repr(explanation), str)


def _selectors(rng: random.Random) -> None:
    place, size = _folder(corpus.selecting(), rng, lying="activations.json")
    model = corpus.network(1)
    bounded(lambda: restore_activations(model, place, read_contents(place)) or True, size)
    bounded(lambda: weights_alone(place), size)


def _model(rng: random.Random) -> None:
    """The whole of `rarefy.load`: refused, or a model that runs."""
    files, name = rng.choice(((corpus.selecting(), "activations.json"), (corpus.compiled(), "engine.json")))
    place, size = _folder(files, rng, lying=name)
    model = corpus.network(1)
    found = bounded(lambda: rarefy.load(place, model=model, compiled=False), size)
    if found is not None:
        try:
            with torch.inference_mode():
                assert found(torch.randn(3, 32)).shape == (3, 8)
        except RarefyError as error:  # a selector for another width
            assert str(error)


@cache
def _config() -> dict[str, Any]:
    from transformers import BertConfig

    said = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9).to_dict()
    found: dict[str, Any] = json.loads(json.dumps(said)) | {"architectures": ["BertModel"], "num_labels": 2}
    class_of(found, config_of(found, _FOLDER), _FOLDER)  # imports what it takes from transformers, which is slow
    return found


def _configs(rng: random.Random) -> None:
    said = _hostile(_config(), rng)
    place = _made("config/config.json", said)
    bounded(lambda: kind_of_folder(place.parent), len(said))


def _made(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # what was mapped keeps its pages
    path.write_bytes(data)
    return path


def _class(rng: random.Random) -> None:
    """The class of a config comes from transformers' tables or not at all."""
    said = lied(_config(), rng)
    if not isinstance(said, dict):
        return

    def found() -> Any:
        return class_of(said, config_of(said, _FOLDER), _FOLDER)

    try:
        cls = bounded(found, len(json.dumps(said)), more=_names_of_labels(said))
    except Exception as error:  # transformers checks its own fields; `build` catches what it raises
        assert "transformers" in _raised_in(error) or "huggingface_hub" in _raised_in(error), error
        return
    assert cls is None or cls.__module__.startswith("transformers.models.")


def _names_of_labels(said: dict[str, Any]) -> int:
    """Bytes of the names that transformers gives to labels which the config only counts, 100,000 at most."""
    count = said.get("num_labels")
    return 1000 * count if isinstance(count, int) and 0 < count <= 100_000 else 0


def _raised_in(error: BaseException) -> str:
    trace, files = error.__traceback__, []
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    return " ".join(files)


def _pooling(rng: random.Random) -> None:
    said = _hostile({"word_embedding_dimension": 8, "pooling_mode_cls_token": True}, rng)
    _made("pool/1_Pooling/config.json", said)
    bounded(lambda: pooling_of(_FOLDER / "pool"), len(said))


_JOB = {"source": "1 files, abc", "data": "2 batches", "method": "wanda", "sparsity": "0.5"}


def _journal(rng: random.Random) -> None:
    site = {"name": "a", "sparsity": 0.5}
    said = {"schema": folder_target.SCHEMA, "job": _JOB, "layout": {"blocks": ["a"]}, "units": {"block 0": [site]}}
    said |= {"written": ["a.weight"], "seconds": 1.5, "peak_rss": 10, "runs": 1}
    data = _hostile(said, rng)
    path = _made("journal/journal.json", data)
    found = bounded(lambda: folder_target._journal(path, _FOLDER, _JOB), len(data))
    if found is not None:
        assert all(isinstance(name, str) for name in found.written)
        assert all(isinstance(reports, list) for reports in found.units.values())
        assert isinstance(found.runs + 1, int) and isinstance(found.seconds + 1.0, float)


def _report(rng: random.Random) -> None:
    data = _hostile({"schema": REPORT, "job": {"method": "wanda"}, "file": {}}, rng)
    _made("report/report.json", data)
    bounded(lambda: read_report(_FOLDER / "report"), len(data))
    done = _hostile({"schema": folder_target.SCHEMA, "job": _JOB}, rng)
    _made("done/rarefy-prune.json", done)
    bounded(lambda: folder_target.finished(_FOLDER / "done", _JOB), len(done))


def _cell(rng: random.Random) -> None:
    outcome = Outcome({"accuracy": 0.5}, 0.5, 1.0, 1.0, 3.0, 2, {"a": "why"})
    said = {"schema": CELL, "label": "a", "seed": 0, "outcome": outcome.to_dict()}
    data = _hostile(said, rng)
    _made("cells/key.json", data)
    found = bounded(lambda: CellStore(_FOLDER / "cells").get("key") or True, len(data))
    assert found is True or all(isinstance(v, int | float) for v in found.metrics.values())


_TIMES = {
    "ms": {"dense": 1.0, "spmm": 0.5},
    "tried": ["x"],
    "cell": {
        "shape": [8, 8], "nnz": 3, "support": [1, 2], "tokens": 4, "activation": "none", "bias": True,
        "types": {"weights": "fp32", "activations": "fp32", "static": False},
    },
}  # fmt: skip


def _times(rng: random.Random) -> None:
    """A record, and the whole file of SQLite."""
    data = _hostile(_TIMES, rng)
    bounded(lambda: _record(data.decode("utf-8", "replace")) or True, len(data))
    if rng.random() < 0.3:
        whole = damaged(_database(), rng)
        _made("times/timings.sqlite", whole)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            bounded(lambda: TimingCache(_FOLDER / "times").get("key") or True, len(whole))


@cache
def _database() -> bytes:
    from rarefy.engine.cache import Record

    kept = TimingCache(_FOLDER / "good")
    for i in range(20):
        kept.put("key" if i == 0 else f"key {i}", Record({"dense": 1.0 + i}))
    return kept.path.read_bytes()


def _packs(rng: random.Random) -> None:
    """A file of packed weights with an index that lies, signed anew."""
    wanted, data = _packed()
    end = int.from_bytes(data[8:16], "little")
    index = _hostile(json.loads(data[end:]), rng)
    forged = data[:16] + hashlib.sha256(index).digest() + data[48:end] + index
    path = _made("w.packed", forged if rng.random() < 0.8 else damaged(data, rng))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = bounded(lambda: shared._read(path, "key", wanted) or True, path.stat().st_size)
    if found is not True:
        assert torch.equal(found[0].to_dense(), wanted[0].source())


@cache
def _packed() -> tuple[list[shared.Wanted], bytes]:
    weight = torch.randn(24, 40) * (torch.rand(24, 40) < 0.3)
    packed = ops.pack(weight)
    wanted = [shared.Wanted("a", packed.kernel, packed.shape, None, lambda: weight, True)]
    file = io.BytesIO()
    pack_file.write(file, "key", [(wanted[0].name, ops.packed_bytes(packed))], 1e9)
    return wanted, file.getvalue()


_MIX: tuple[tuple[Callable[[random.Random], None], int], ...] = (
    *((_engine, 5), (_selectors, 4), (_model, 2), (_configs, 2), (_class, 2), (_pooling, 2), (_journal, 3)),
    *((_report, 2), (_cell, 2), (_times, 3), (_packs, 4)),
)
_KINDS, _SHARES = zip(*_MIX, strict=True)
