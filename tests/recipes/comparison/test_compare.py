"""Like for like: each cell is what pruning by hand gives, and a finished cell is never run again."""

import copy
import csv
import json
from functools import partial
from statistics import mean, stdev

import pytest
import torch

import rarefy
from rarefy.core.errors import DataError, FileError, ModelError, SparsityError, UnknownNameError
from rarefy.pruning import prune
from rarefy.recipes.comparison.condition import Condition
from recipes.comparison.problems import METHODS, batches, counted, error, loss, model


def by_hand(method, sparsity, seed, **options):
    net = model()
    prune(net, method, sparsity=sparsity, data=batches(seed), seed=seed, **options)
    return error(net)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    methods = [*METHODS, "wanda@erk", "wanda+repair=weights"]
    return rarefy.compare(
        model(),
        methods,
        evaluate=error,
        sparsity=[0.5, 0.7],
        pattern=["unstructured", "2:4"],
        data=batches,
        seeds=3,
        lower_is_better=True,
        out=out,
    ), out


def test_every_cell_is_what_pruning_by_hand_gives(found):
    for method, sparsity in (("random", 0.5), ("wanda", 0.7), ("sparsegpt", 0.7)):
        mine = [by_hand(method, sparsity, seed) for seed in range(3)]
        cell = found[0].spread(method, Condition("unstructured", sparsity), "score")
        assert (cell.mean, cell.sd, cell.count) == (pytest.approx(mean(mine)), pytest.approx(stdev(mine)), 3)
    spread = found[0].spread("wanda@erk", Condition("unstructured", 0.7), "score")
    assert spread.mean == pytest.approx(mean(by_hand("wanda", 0.7, s, allocation="erk") for s in range(3)))
    repaired = found[0].spread("wanda+repair=weights", Condition("2:4", None), "score")
    hand = mean(by_hand("wanda", None, s, pattern="2:4", repair="weights") for s in range(3))
    assert repaired.mean == pytest.approx(hand)


def test_the_seeds_have_data_of_their_own(found):
    assert found[0].spread("wanda", Condition("unstructured", 0.7), "score").sd > 0
    assert found[0].spread("magnitude", Condition("unstructured", 0.7), "score").sd == 0


def test_the_best_of_a_column_is_bold_and_what_is_asked_is_met(found):
    comparison = found[0]
    column = Condition("unstructured", 0.7)
    scores = {m: comparison.spread(m, column, "score").mean for m in comparison.methods}
    best = min(scores, key=scores.get)
    assert comparison.best(column, "score") == best != "random"
    row = next(line for line in comparison.table().splitlines() if line.startswith(f"| {best} |"))
    assert f"**{scores[best]:.4g} ±" in row
    assert comparison.spread("wanda", column, "sparsity").mean == pytest.approx(0.7, abs=0.02)


def test_a_method_that_cannot_do_a_column_is_a_note_and_no_end(found):
    comparison = found[0]
    assert comparison.spread("wanda@erk", Condition("2:4", None), "score") is None
    table = comparison.table()
    row = next(line for line in table.splitlines() if line.startswith("| wanda@erk |"))
    assert row.endswith("| - [1] |")
    assert "[1] failed: allocation: 2:4 has one density" in table and "(3 of 3 seeds)" in table


def test_the_files_agree_with_what_is_returned(found):
    comparison, out = found
    page = (out / "compare.md").read_text()
    assert comparison.table() in page and "Dense model: score 0" in page
    rows = list(csv.DictReader((out / "compare.csv").open()))
    assert len(rows) == 6 * 3 * 3
    data = json.loads((out / "compare.json").read_text())
    good = [r for r in data["cells"] if r["error"] is None]
    assert all(r["seconds"] > 0 and (r["peak_mib"] is None or r["peak_mib"] >= 0) for r in good)
    assert {r["seed"] for r in good} == {0, 1, 2} and data["lower_is_better"] == ["score"]
    svg = (out / "compare.svg").read_text()
    assert all(method in svg for method in METHODS) and "2:4" in svg


def test_the_model_that_was_given_is_untouched():
    net = model()
    before = copy.deepcopy(net.state_dict())
    rarefy.compare(net, ["wanda"], evaluate=error, sparsity=0.5, data=batches)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.fixture
def again(tmp_path):
    """Runs a small comparison and gives how many evaluations that took."""
    log = tmp_path / "log"

    def run(net=None, methods=("magnitude", "wanda"), **changes):
        before = len(log.read_text()) if log.exists() else 0
        asked = {"sparsity": 0.5, "data": batches, "out": tmp_path, "evaluate": partial(counted, log=log)} | changes
        rarefy.compare(net or model(), list(methods), **asked)
        return (len(log.read_text()) - before) // 2

    return run


def test_what_is_finished_is_not_run_again(again):
    assert again() == 3  # the dense model too
    assert again() == 0
    assert again(methods=("wanda", "magnitude")) == 0
    assert again(methods=("magnitude", "wanda", "random")) == 1
    assert again(sparsity=[0.5, 0.6]) == 2
    assert again(seeds=2) == 2
    assert again(fresh=True) == 3


def test_whatever_decides_a_result_decides_what_is_run_again(again):
    again()
    changed = model()
    with torch.no_grad():
        changed[0].weight[0, 0] += 1e-3
    assert again(changed) == 3
    assert again(data=[*batches(0), batches(1)[0]]) == 2  # the dense model has no calibration data
    assert again(ignore=["2"]) == 2
    assert again(loss=loss) == 2
    assert again(undivided="skip") == 2
    assert again(methods=("magnitude+pattern=rowwise",)) == 1


def test_a_damaged_cell_is_run_again_and_a_lost_one_too(again, tmp_path):
    again()
    files = sorted((tmp_path / "cells").glob("*.json"))
    assert len(files) == 3
    for text in ("", "{", "[]", '{"schema": "rarefy.cell/1", "outcome": {"metrics": {}}}'):
        files[0].write_text(text)
        assert again() == 1
    files[1].unlink()
    assert again() == 1


def test_errors_of_the_machine_are_tried_again_and_others_are_not(tmp_path):
    state = tmp_path / "full"
    calls = []

    def flaky(net):
        calls.append(1)
        if state.exists() and len(calls) > 1:
            raise MemoryError("no room")
        return error(net)

    def run():
        calls.clear()
        return rarefy.compare(model(), ["magnitude", "wanda"], evaluate=flaky, sparsity=0.5, out=tmp_path)

    state.touch()
    first = run()
    errors = [o.error for o in first.cells.values()]
    assert errors[0] == "MemoryError: no room"
    assert "needs calibration data" in errors[1]
    state.unlink()
    second = run()
    assert len(calls) == 1  # magnitude; the dense model is known, and wanda will not have data now either
    assert [o.error is None for o in second.cells.values()] == [True, False]


def test_collect_runs_nothing_and_says_what_is_missing(again, tmp_path):
    again()
    assert again(sparsity=[0.5, 0.6], collect=True) == 0
    assert "2 cell(s) have not been run yet" in (tmp_path / "compare.md").read_text()


def test_an_evaluation_that_gives_nan_for_a_cell_is_a_failed_cell():
    def broken(net):
        return float("nan") if (net[0].weight == 0).any() else 1.0

    found = rarefy.compare(model(), ["magnitude"], evaluate=broken, sparsity=0.5)
    assert "evaluate returned nan as score" in next(iter(found.cells.values())).error


@pytest.mark.parametrize(
    ("evaluate", "said"),
    [
        (lambda net: float("nan"), "dense model: evaluate returned nan"),
        (lambda net: {}, "no metric"),
        (lambda net: "good", "returned str"),
        (lambda net: {"a": 1.0, "b": float("inf")}, "inf as b"),
    ],
)
def test_an_evaluation_that_does_not_work_is_an_error_at_once(evaluate, said):
    with pytest.raises(DataError, match=said):
        rarefy.compare(model(), ["magnitude"], evaluate=evaluate, sparsity=0.5)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"methods": []}, DataError, "none given"),
        ({"methods": ["wanda", "wanda"]}, DataError, "wanda given twice"),
        ({"methods": ["wandda"]}, UnknownNameError, "did you mean 'wanda'"),
        ({"methods": "wanda"}, DataError, "give a list"),
        ({"sparsity": 1.5}, SparsityError, "1.5"),
        ({"sparsity": ()}, SparsityError, "missing"),
        ({"data": []}, DataError, "empty"),
        ({"data": lambda seed: []}, DataError, "empty"),
        ({"calibration": 4}, DataError, "4 of 3"),
        ({"seeds": 0}, DataError, "seeds"),
        ({"workers": 0}, DataError, "workers"),
        ({"workers": 2, "ray": True}, DataError, "exclude"),
        ({"lower_is_better": ["loss"]}, DataError, "is no metric"),
        ({"model": torch.nn.ReLU()}, ModelError, "no prunable layer"),
    ],
)
def test_a_mistake_is_an_error_before_anything_runs(changes, kind, said):
    asked = {"model": model(), "methods": ["wanda"], "sparsity": 0.5, "data": batches, "evaluate": lambda net: 1.0}
    with pytest.raises(kind, match=said):
        rarefy.compare(**(asked | changes))


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="choose another folder"):
        rarefy.compare(model(), ["magnitude"], evaluate=error, sparsity=0.5, out=tmp_path / "file" / "below")


def test_a_seed_draws_its_own_batches_of_a_list():
    every = [batch for seed in range(4) for batch in batches(seed)]
    found = rarefy.compare(model(), ["wanda"], evaluate=error, sparsity=0.7, data=every, calibration=2, seeds=3)
    values = [outcome.metrics["score"] for outcome in found.cells.values()]
    assert len(set(values)) == 3


def test_labels_of_a_mapping_name_the_rows():
    methods = {"A": "magnitude", "B": "magnitude+pattern=rowwise"}
    found = rarefy.compare(model(), methods, evaluate=error, sparsity=0.5)
    assert found.methods == ("A", "B")
    assert "| A |" in str(found)
