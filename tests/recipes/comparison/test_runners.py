"""Cells in other processes, on Ray, and after a kill at any moment: always the same table."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import rarefy
from rarefy.core.errors import DataError, ModelError
from rarefy.recipes.comparison.cell import Case, Cell
from rarefy.recipes.comparison.condition import Condition
from rarefy.recipes.comparison.runners import OnRay, Processes, serial
from rarefy.recipes.comparison.variant import variant_of
from recipes.comparison import problems
from recipes.comparison.problems import METHODS, batches, deadly, error, model

CELLS = [
    Cell(variant_of(m), Condition("unstructured", s), seed) for seed in (0, 1) for m in METHODS for s in (0.5, 0.8)
]


def case(evaluate=error):
    return Case(model(), {seed: batches(seed) for seed in (0, 1)}, evaluate)


def metrics(runner, evaluate=error):
    return {cell: outcome.metrics for cell, outcome in runner(case(evaluate), CELLS)}


@pytest.fixture(scope="module")
def alone():
    return metrics(serial)


def test_processes_give_what_one_process_gives(alone):
    found = metrics(Processes(2))
    assert found.keys() == alone.keys()
    for cell, values in alone.items():
        assert found[cell]["score"] == pytest.approx(values["score"], rel=1e-4)


def test_a_process_that_dies_costs_its_cells_only(alone):
    cells = CELLS[2:5]
    found = dict(Processes(1)(case(deadly), cells))
    dead = {cell for cell, outcome in found.items() if outcome.error is not None}
    assert dead == {cell for cell in cells if cell.condition.sparsity == 0.8}
    assert len(dead) == 1 and found.keys() == set(cells)
    assert all("exit code 3" in found[cell].error and found[cell].retry for cell in dead)
    for cell in set(cells) - dead:
        assert found[cell].metrics["score"] == pytest.approx(alone[cell]["score"], rel=1e-4)


def test_what_cannot_travel_is_refused_with_what_to_do():
    with pytest.raises(DataError, match="top of a module"):
        rarefy.compare(model(), ["magnitude"], evaluate=lambda net: 1.0, sparsity=0.5, workers=2)


class Cluster:
    """As much of Ray as the adapter uses, in this process; `fails` cells are lost."""

    def __init__(self, fails=()):
        self.started, self.store, self.fails = False, {}, set(fails)

    def is_initialized(self):
        return self.started

    def init(self, **options):
        assert not self.started
        self.started = True

    def put(self, value):
        self.store[len(self.store)] = value
        return len(self.store) - 1

    def remote(self, function):
        cluster = self

        class Task:
            def remote(self, payload, cell):
                return cluster.put((function, cluster.store[payload], cell))

        return Task()

    def wait(self, references, num_returns):
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference):
        function, payload, cell = self.store[reference]
        if cell in self.fails:
            raise RuntimeError("the node is gone")
        return function(payload, cell)


def test_ray_gives_what_one_process_gives(alone):
    assert metrics(OnRay(Cluster())) == alone


def test_a_lost_ray_task_costs_its_cell_only(alone):
    found = dict(OnRay(Cluster([CELLS[3]]))(case(), CELLS))
    assert found[CELLS[3]].error == "Ray: RuntimeError: the node is gone" and found[CELLS[3]].retry
    assert {cell: o.metrics for cell, o in found.items() if o.error is None} == {
        cell: values for cell, values in alone.items() if cell is not CELLS[3]
    }


def test_without_ray_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModelError, match="pip install ray"):
        rarefy.compare(model(), ["magnitude"], evaluate=error, sparsity=0.5, ray=True)


def test_a_real_cluster_if_there_is_one(alone):
    ray = pytest.importorskip("ray")
    try:
        assert metrics(OnRay(ray)).keys() == alone.keys()
    finally:
        ray.shutdown()


def evaluations(out):
    log = out / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_at_any_moment_loses_at_most_the_running_cell(tmp_path):
    """Killed twice at different moments, then left alone: the table of an undisturbed run, and no cell twice but
    the one that was running at each kill."""
    killed, calm = tmp_path / "killed", tmp_path / "calm"
    for folder in (killed, calm):
        folder.mkdir()
    torch.set_num_threads(1)
    environment = os.environ | {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    for wanted in (3, 10):
        process = subprocess.Popen([sys.executable, problems.__file__, str(killed), "0.15"], env=environment)
        limit = time.monotonic() + 120
        while evaluations(killed) < wanted and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert evaluations(killed) >= wanted
    for left in (killed / "cells").glob("*.json"):
        assert left.read_text().endswith("}\n")
    problems.main(killed, 0.15)
    problems.main(calm, 0.15)
    assert evaluations(calm) == 17
    assert evaluations(killed) <= 17 + 2
    tables = [Path(out / "compare.md").read_text().split("## Seconds")[0].splitlines()[3:] for out in (killed, calm)]
    assert tables[0] == tables[1]
