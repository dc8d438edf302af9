"""The main job on a language model: windows without padding, held-back text, perplexity, and tokens a second."""

import json
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from needs import needs_native
from rarefy.cli.compress import task_of
from rarefy.core.errors import DataError
from rarefy.recipes.compress import before, compress, make_sparse
from rarefy.recipes.compress_job import Job
from rarefy.recipes.encoder import load_text_model
from rarefy.recipes.html import page
from rarefy.recipes.language_task import language_task
from rarefy.recipes.stages import Silent
from serving.tiny import write_writer

pytest.importorskip("transformers")
LINES = [f"line {i}: " + " ".join(f"{i * j % 97}" for j in range(30)) for i in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("writer")
    return write_writer(where / "words", where / "model")


@pytest.fixture
def task(folder):
    return language_task(load_text_model(folder), LINES, calibration=16)


def _text(task, batches):
    return task.text.tokenizer.decode(torch.cat([b["input_ids"].flatten() for b in batches]))


def test_windows_are_whole_and_nothing_held_back_is_learnt(task):
    ids = [b["input_ids"] for b in task.calibration + task.recovery]
    assert {i.shape[1] for i in ids} == {128}
    assert all(set(b) == {"input_ids"} for b in task.recovery)
    assert sum(len(b["input_ids"]) for b in task.calibration) == 16 < sum(len(b["input_ids"]) for b in task.recovery)
    learnt = _text(task, task.recovery)
    assert task.unseen and not any(line in learnt for line in task.unseen)
    assert sum(line in learnt for line in LINES) > 30


def test_perplexity_is_exp_of_the_mean_loss_a_token(task):
    cut = task.perplexity.cut
    with torch.no_grad():
        logits = task.model(input_ids=cut).logits.double()
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), cut[:, 1:].flatten())
    assert task.perplexity_of(task.model) == pytest.approx(math.exp(float(loss)), rel=1e-4)
    assert task.vectors(task.model, None).shape == (task.evaluation, logits.shape[2])
    torch.testing.assert_close(task.vectors(task.model, None), logits[:, -1].float(), rtol=1e-3, atol=1e-3)


def test_perplexity_before_and_after_is_in_the_quality(task):
    job = Job("random", 0.95, recover=60, options={})
    dense = before(task, Silent())
    found = make_sparse(task, job, dense, Silent()).quality
    assert dense.perplexity == found["pruned"].dense_perplexity == pytest.approx(task.perplexity_of(dense.model))
    assert found["recovered"].perplexity == pytest.approx(task.perplexity_of(task.model))
    away = [abs(math.log(found[which].perplexity / dense.perplexity)) for which in ("pruned", "recovered")]
    assert away[1] < away[0]
    assert found["pruned"].overlap is None
    assert f"perplexity {found['pruned'].perplexity:.2f}" in str(found["pruned"])


def test_too_little_text_is_refused(folder):
    with pytest.raises(DataError, match="too few for windows"):
        language_task(load_text_model(folder), ["a b", "c d"], calibration=4)


def test_command_takes_a_language_model_as_one(tmp_path, folder):
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    assert task_of(str(folder), str(tmp_path / "lines.txt"), 0).perplexity is not None


@needs_native
def test_report_page_and_table_say_perplexity_and_tokens_a_second(task, tmp_path):
    from rich.console import Console

    from rarefy.cli.tables import print_report

    task = replace(task, examples=task.examples[:1])
    report = compress(task, Job("magnitude", 0.9, rounds=1), tmp_path, Silent(), "writer")
    report = json.loads(json.dumps(report)) | {"schema": "rarefy.report/1"}
    console = Console(record=True, width=200, file=open(tmp_path / "shown.txt", "w"))  # noqa: SIM115
    print_report(report, console, [])
    shown, drawn = console.export_text(), page(report)
    quality, writing = report["quality"]["pruned"], report["bench"]["writing"]
    assert quality["perplexity"] != quality["dense_perplexity"]
    for said in (f"{quality['perplexity']:.2f}", f"{1000 / writing['timed']['rarefy']['median']:.1f}"):
        assert said in shown and said in drawn
    assert "top-10" not in shown and "perplexity on unseen text" in shown
    assert f"{quality['dense_perplexity']:.3f}" in drawn
    assert set(writing["timed"]) == {"rarefy", "torch", "rarefy-int8"}
