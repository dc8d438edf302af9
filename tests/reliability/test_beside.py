"""Files beside weights that are damaged or lie: an error of ours, or as if there were none."""

import hashlib
import json
import struct

import pytest

from rarefy.core.errors import FileError
from rarefy.engine import pack_file
from rarefy.engine.cache import _record
from rarefy.recipes import folder_target
from rarefy.recipes.comparison.cell import Outcome
from rarefy.recipes.comparison.store import SCHEMA, CellStore
from rarefy.recipes.comparison.subject import kind_of_folder
from rarefy.recipes.encoder import pooling_of
from rarefy.recipes.report_file import read_report
from rarefy.recipes.store_config import config_of

DEEP = "[" * 100_000


@pytest.mark.parametrize("text", ["[]", "1.5", '"x"', DEEP, '{"a":' * 100_000, "\ufeff{}", ""])
def test_configs_that_are_no_objects_are_errors_of_ours(text, tmp_path) -> None:
    for name, door in (
        ("1_Pooling/config.json", pooling_of),
        ("config.json", kind_of_folder),
        ("report.json", read_report),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FileError, match=path.name):
            door(tmp_path)


@pytest.mark.parametrize("named", [5, {"a": 1}, None, [3, None]])
def test_architectures_of_any_type_are_read(named, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": named}))
    assert kind_of_folder(tmp_path) == "encoder"


@pytest.mark.parametrize(
    "said", [{"num_labels": 10**12}, {"num_hidden_layers": 10**9}, {"text": [{"depths": [1, 1e30]}]}]
)
def test_a_config_of_a_trillion_labels_is_refused_at_once(said, tmp_path) -> None:
    """transformers would make a dictionary of them before there is any model."""
    pytest.importorskip("transformers")
    with pytest.raises(FileError, match=r"config\.json says .* more than 100000"):
        config_of({"model_type": "bert", **said}, tmp_path)
    assert config_of({"model_type": "bert", "num_labels": 3}, tmp_path).num_labels == 3


JOB = {"method": "wanda"}


@pytest.mark.parametrize(
    "change",
    [
        {"units": 5},
        {"units": {"a": 1}},
        {"units": {"a": [1]}},
        {"written": 3},
        {"written": [None]},
        {"runs": "x"},
        {"seconds": []},
    ],
)
def test_a_damaged_journal_is_refused(change, tmp_path) -> None:
    path = tmp_path / "journal.json"
    whole = {"schema": folder_target.SCHEMA, "job": JOB, "units": {"a": [{"name": "b"}]}, "written": ["b.weight"]}
    path.write_text(json.dumps(whole))
    assert folder_target._journal(path, tmp_path, JOB).written == ["b.weight"]
    path.write_text(json.dumps(whole | change))
    with pytest.raises(FileError, match=r"journal\.json: is damaged"):
        folder_target._journal(path, tmp_path, JOB)


@pytest.mark.parametrize(
    "change", [{"metrics": 5}, {"metrics": {"a": "x"}}, {"seconds": "x"}, {"retry": 1}, {"error": []}]
)
def test_a_damaged_cell_is_run_again(change, tmp_path) -> None:
    store, good = CellStore(tmp_path), Outcome({"accuracy": 0.5}, seconds=1.0).to_dict()
    path = tmp_path / "key.json"
    path.write_text(json.dumps({"schema": SCHEMA, "outcome": good}))
    assert store.get("key") == Outcome({"accuracy": 0.5}, seconds=1.0)
    for text in (json.dumps({"schema": SCHEMA, "outcome": good | change}), DEEP):
        path.write_text(text)
        assert store.get("key") is None


def test_a_time_of_an_infinite_shape_is_unknown() -> None:
    cell = {"shape": [8, 8], "nnz": 3, "support": [1], "tokens": 4, "activation": "none", "bias": True}
    cell["types"] = {"weights": "fp32", "activations": "fp32", "static": False}
    said = {"ms": {"dense": 1.0}, "tried": [], "cell": cell}
    assert _record(json.dumps(said)) is not None
    assert _record(json.dumps(said | {"cell": cell | {"nnz": float("inf")}})) is None


_PLACES = (3, {"a": 3}, {"a": [-1, 8]}, {"a": [0, 2**70]}, {"a": [0, float("inf")]})


@pytest.mark.parametrize(
    "index",
    [5, {"key": "k"}, *({"key": "k", "weights": weights} for weights in _PLACES)],
)
def test_a_signed_index_of_packed_weights_that_lies_is_refused(index, tmp_path) -> None:
    text, path = json.dumps(index).encode(), tmp_path / "w.packed"
    at = 64
    head = struct.pack("<8sQ32s", b"rarefyP1", at, hashlib.sha256(text).digest())
    path.write_bytes(head.ljust(at, b"\0") + text)
    with pytest.raises(ValueError, match=r"its index makes no sense|belongs to another|lies outside"):
        pack_file.places(path, "k")
