"""`rarefy compare` on a folder and on plain models."""

import csv
import json

import pytest

NETS = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

def batches():
    x = torch.randn(128, 16, generator=torch.Generator().manual_seed(1))
    return [(part, make()(part).argmax(1)) for part in x.split(16)]

def inputs():
    return [x for x, _ in batches()]

def zeros(model):
    return {"zeros": float((model[0].weight == 0).float().mean()), "one": 1.0}
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "some_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    return "some_nets"


def rows(out):
    with (out / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_text_encoder(run, bert_folder, texts, tmp_path):
    pairs = tmp_path / "sts.csv"
    lines = texts.read_text().splitlines()
    pairs.write_text(
        "\n".join(f"{a},{b},{i % 5}" for i, (a, b) in enumerate(zip(lines[::2], lines[1::2], strict=True)))
    )
    asked = ["--methods", "magnitude,sparsegpt", "--sparsity", "0.5,0.9", "--seeds", 2, "--ignore", "pooler"]
    out = tmp_path / "out"
    done = run("compare", bert_folder, *asked, "--data", texts, "--sts", pairs, "--out", out)
    assert done.exit_code == 0, done.output
    found = rows(out)
    assert len(found) == 8 and not any(row["error"] for row in found)
    cosine = {(r["method"], r["asked"], r["seed"]): float(r["cosine"]) for r in found}
    assert cosine["magnitude", "0.5", "0"] > cosine["magnitude", "0.9", "0"]
    assert cosine["sparsegpt", "0.9", "0"] > cosine["magnitude", "0.9", "0"]
    assert all(abs(float(r["sparsity"]) - float(r["asked"])) < 1e-3 for r in found)
    assert "dense" in done.output and "1" in done.output
    assert json.loads((out / "compare.json").read_text())["dense"]["cosine"] == pytest.approx(1.0, abs=1e-5)
    again = run("compare", bert_folder, *asked, "--data", texts, "--sts", pairs, "--out", out)
    assert "8 cell(s) were there already" in again.output


def test_a_classifier(run, nets, tmp_path):
    asked = ["--methods", "magnitude,snip,random", "--sparsity", "0.8", "--seeds", 1, "--task", "classifier"]
    done = run("compare", f"{nets}:make", *asked, "--data", f"{nets}:batches", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out")
    assert len(found) == 3 and not any(row["error"] for row in found)
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["dense"] == {"accuracy": 100.0}
    accuracy = {row["method"]: float(row["accuracy"]) for row in found}
    assert 100 > accuracy["snip"] > accuracy["random"]


def test_an_evaluation_of_ones_own(run, nets, tmp_path):
    asked = ["--methods", "magnitude", "--pattern", "2:4,unstructured", "--sparsity", "0.75", "--seeds", 1]
    asked += ["--data", f"{nets}:inputs", "--evaluate", f"{nets}:zeros", "--out", tmp_path / "out"]
    done = run("compare", f"{nets}:make", *asked)
    assert done.exit_code == 0, done.output
    assert [float(row["zeros"]) for row in rows(tmp_path / "out")] == [0.5, 0.75]


def test_the_options_are_those_of_the_help(run):
    done = run("compare", "--help")
    assert done.exit_code == 0
    assert "METHOD@ALLOCATION" in done.output and "--workers" in done.output


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": "wnda"}, "did you mean 'wanda'"),
        ({"methods": ","}, "none given"),
        ({"sparsity": "0.5,much"}, "--sparsity"),
        ({"sparsity": "50"}, "50"),
        ({"pattern": "2:x"}, "pattern"),
        ({"task": "clasifier"}, "did you mean 'classifier'"),
        ({"task": "encoder"}, "--task"),
        ({"data": "some_nets:nothing"}, "nothing"),
        ({"evaluate": "some_nets:nothing"}, "nothing"),
        ({"seeds": 0}, "seeds"),
    ],
)
def test_a_mistake_is_one_line(run, nets, tmp_path, changes, said):
    asked = {"methods": "magnitude", "sparsity": "0.5", "data": f"{nets}:inputs", "out": tmp_path / "out"} | changes
    flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
    done = run("compare", f"{nets}:make", *flags)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ") and said in done.stderr and "\n" not in done.stderr.strip()
    assert not (tmp_path / "out" / "compare.md").exists()


def test_a_folder_that_is_no_model(run, texts, tmp_path):
    asked = ["--methods", "magnitude", "--sparsity", "0.5", "--data", texts, "--out", tmp_path / "out"]
    done = run("compare", tmp_path, *asked)
    assert done.exit_code == 2 and "config.json" in done.stderr
