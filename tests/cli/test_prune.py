"""`rarefy prune`: a folder into a folder, from a text or token ids."""

import json

import numpy
import pytest
import torch

import rarefy
from rarefy.recipes.folder_target import REPORT
from recipes.folders import write_folder


def test_an_encoder_from_a_text(run, bert_folder, texts, tmp_path) -> None:
    out = tmp_path / "out"
    asked = ("--method", "wanda", "--sparsity", 0.5, "--data", texts, "--rows", 20, "--length", 16)
    done = run("prune", bert_folder, out, *asked, "--ignore", "pooler")
    assert done.exit_code == 0, done.output
    assert "50.00% zeros in 12 layers" in done.output and "peak memory" in done.output
    assert (out / "tokenizer_config.json").exists()
    weight = rarefy.load(out).encoder.layer[1].output.dense.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    again = run("prune", bert_folder, out, *asked, "--ignore", "pooler")
    assert again.exit_code == 0 and "50.00% zeros" in again.output


def test_a_language_model_from_token_ids(run, tmp_path) -> None:
    source, out = write_folder(tmp_path / "source", "llama"), tmp_path / "out"
    numpy.save(tmp_path / "ids.npy", numpy.arange(60).reshape(4, 15))
    done = run("prune", source, out, "--pattern", "2:4", "--data", tmp_path / "ids.npy", "--option", "damping=0.1")
    assert done.exit_code == 0, done.output
    assert json.loads((out / REPORT).read_text())["report"]["pattern"] == "2:4"
    groups = rarefy.load(out).lm_head.weight.reshape(-1, 4)
    assert bool(((groups != 0).sum(1) == 2).all()) and groups.dtype == torch.float32


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "needs calibration data"),
        (("--data", "none.npy"), "does not exist"),
        (("--data", "floats.npy"), "give token ids (rows, tokens)"),
        (("--data", "short.txt"), "fewer than one run"),
        (("--method", "snip", "--data", "ids.npy"), "only a block is in memory"),
    ],
)
def test_a_mistake_is_one_line(more, says, run, bert_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    numpy.save("floats.npy", numpy.zeros((2, 3)))
    numpy.save("ids.npy", numpy.zeros((2, 3), dtype=numpy.int64))
    (tmp_path / "short.txt").write_text("a cat\n")
    source = write_folder(tmp_path / "source", "llama")
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        if (bert_folder / name).exists():
            (source / name).write_bytes((bert_folder / name).read_bytes())
    done = run("prune", source, tmp_path / "out", "--sparsity", 0.5, *more)
    assert done.exit_code == 2
    assert says in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()
