"""The main job on a user's own model, end to end."""

import json

import pytest
import torch
from torch import nn

import rarefy
from rarefy.ops import available
from rarefy.recipes.encoder import load_text_model

TIMED = ("rarefy", "torch", *(["rarefy-int8"] if available() else []))  # 8 bits are native only: skipped, and said so


@pytest.fixture(scope="module")
def report(compressed):
    return json.loads((compressed[0] / "report.json").read_text())


def test_the_saved_model_has_the_asked_zeros_and_the_pooler_is_whole(compressed):
    model = rarefy.load(compressed[0])
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    pruned = [m.weight for n, m in linears.items() if "pooler" not in n]
    zeros, size = sum(int((w == 0).sum()) for w in pruned), sum(w.numel() for w in pruned)
    assert len(pruned) == 12
    assert abs(zeros / size - 0.7) < 1e-3
    assert not (linears["pooler.dense"].weight == 0).any()


def test_the_saved_folder_is_a_text_model_of_its_own(compressed, bert_folder):
    texts = ["the cat runs", "a big red house"]
    sparse, dense = load_text_model(compressed[0]), load_text_model(bert_folder)
    assert sparse.batch(texts)["input_ids"].equal(dense.batch(texts)["input_ids"])
    assert sparse.embed(texts).shape == (2, 64)


def test_an_encoder_has_no_perplexity_and_is_not_timed_writing(report):
    assert report["quality"]["pruned"]["perplexity"] is None
    assert "writing" not in report["bench"]


def test_the_report_holds_what_was_done_and_measured(report):
    assert report["schema"] == "rarefy.report/1"
    assert report["job"]["method"] == "sparsegpt"
    assert report["prune"]["sparsity"] == pytest.approx(0.7, abs=1e-3)
    assert len(report["prune"]["sites"]) == 12
    assert report["prune"]["skipped"] == {"pooler.dense": "ignored as asked"}
    assert report["prune"]["timing"]["dense_ms"] > 0
    assert report["data"] == {"calibration": 90, "recovery": 90, "evaluation": 30, "what": "passages"}
    assert 0.5 < report["quality"]["pruned"]["cosine"] < 1.0
    assert report["file"]["reload_difference"] == 0.0
    assert report["file"]["pruned_file_bytes"] < 0.45 * report["file"]["pruned_dense_bytes"]
    assert {"cpu", "threads", "versions", "date"} <= set(report["environment"])


def test_every_round_of_both_shapes_is_in_the_report(report):
    shapes = report["bench"]["shapes"]
    assert [s["shape"] for s in shapes] == ["1x32", "16x32"]
    for shape in shapes:
        assert set(shape["timed"]) == set(TIMED)
        assert all(len(t["rounds"]) == 7 for t in shape["timed"].values())
        assert shape["timed"]["rarefy"]["error"] < 1e-3
    assert available() or "native" in report["bench"]["skipped"]["rarefy-int8"]


def test_what_is_printed_is_what_was_measured(compressed, report):
    printed = compressed[1]
    assert f"{report['quality']['pruned']['cosine']:.4f}" in printed
    assert f"{report['bench']['shapes'][1]['timed']['rarefy']['median']:.2f}" in printed
    assert "left alone: pooler.dense: ignored as asked" in printed


def test_the_page_shows_the_same_numbers_and_loads_nothing(compressed, report):
    page = (compressed[0] / "report.html").read_text()
    assert f"{report['quality']['pruned']['cosine']:.4f}" in page
    assert page.count("<svg") == 3  # zeros a layer, times at two token counts
    assert "src=" not in page
    assert "<script" not in page
    assert "@import" not in page
    assert all(site["name"] in page for site in report["prune"]["sites"])


def test_report_writes_the_page_anew(run, compressed):
    out = compressed[0]
    before = (out / "report.html").read_text()
    (out / "report.html").unlink()
    done = run("report", out)
    assert done.exit_code == 0
    assert (out / "report.html").read_text() == before
    assert "top-10 overlap" in done.output


def test_a_name_that_is_html_stays_text(compressed, report):
    from rarefy.recipes.html import page

    report["model"]["name"] = "<script>alert(1)</script>"
    assert "<script" not in page(report)


def test_bench_times_the_saved_model_and_hides_nobody(run, compressed):
    out = compressed[0]
    done = run("bench", out, "--shape", "2x16", "--against", "torch", "--rounds", 3, "--layers", "--profile")
    assert done.exit_code == 0, done.output
    assert "GFLOP/s" in done.output and "ms by kind:" in done.output
    found = json.loads((out / "bench.json").read_text())
    assert [s["shape"] for s in found["shapes"]] == ["2x16"]
    assert {n: len(t["rounds"]) for n, t in found["shapes"][0]["timed"].items()} == dict.fromkeys(TIMED, 3)
    assert available() or "native" in found["skipped"]["rarefy-int8"]
    assert "encoder.layer.0.attention.self.query" in done.output


_PLAIN = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))

def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(24, 32, generator=generator) for _ in range(8)]
"""


@pytest.fixture
def plain(tmp_path, monkeypatch):
    (tmp_path / "plain_net_of_test.py").write_text(_PLAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "plain_net_of_test"


def test_a_plain_model_is_compressed_and_timed(run, plain, tmp_path):
    out = tmp_path / "out"
    asked = ("--method", "wanda", "--sparsity", 0.75, "--data", f"{plain}:batches", "--out", out)
    done = run("compress", f"{plain}:make", *asked)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert report["data"] == {"calibration": 144, "recovery": 144, "evaluation": 48, "what": "inputs"}
    assert report["prune"]["sparsity"] == pytest.approx(0.75, abs=1e-3)
    done = run("bench", out, "--model", f"{plain}:make", "--data", f"{plain}:batches", "--against", "torch")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_a_plain_model_takes_arrays(run, plain, tmp_path, kind):
    import numpy
    from safetensors.torch import save_file

    rows = torch.randn(80, 32, generator=torch.Generator().manual_seed(2))
    path = tmp_path / f"x.{kind}"
    numpy.save(path, rows.numpy()) if kind == "npy" else save_file({"x": rows}, path)
    done = run("compress", f"{plain}:make", "--method", "magnitude", "--sparsity", 0.5, "--data", path, "--out", "o")
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["data"]["calibration"] + report["data"]["evaluation"] == 80


def test_an_interrupted_command_goes_on_where_it_was(run, plain, tmp_path, monkeypatch):
    from rarefy.recipes import compress

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "out [1]"
    asked = ("--method", "wanda", "--sparsity", 0.75, "--recover", 3, "--data", f"{plain}:batches", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(compress, "timed", stop)
        assert run("compress", f"{plain}:make", *asked).exit_code != 0
    monkeypatch.setattr(compress, "prune", stop)
    done = run("compress", f"{plain}:make", *asked)
    assert done.exit_code == 0, done.output
    assert "going on after saving" in done.output
    assert json.loads((out / "report.json").read_text())["runs"] == 2
    assert not list(out.glob(".rarefy*"))


def test_an_interrupted_command_with_other_arguments_begins_anew(run, plain, tmp_path, monkeypatch):
    from rarefy.recipes import compress

    asked = ("--method", "wanda", "--data", f"{plain}:batches", "--out", tmp_path / "out [1]", "--sparsity")
    with monkeypatch.context() as patch:
        patch.setattr(compress, "timed", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run("compress", f"{plain}:make", *asked, 0.75).exit_code != 0
    done = run("compress", f"{plain}:make", *asked, 0.5)
    assert done.exit_code == 0, done.output
    assert "is of another job: sparsity was 0.75, now 0.5; beginning anew" in done.output
