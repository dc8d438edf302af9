"""Recovery inside the main job: the zeros stay, the model gets closer to the dense one, the report says how."""

import pytest
import torch
from torch import nn

from rarefy.core.errors import FileError, SparsityError, UnknownNameError
from rarefy.recipes import compress_save
from rarefy.recipes.compress import compress
from rarefy.recipes.compress_job import Job
from rarefy.recipes.stages import Silent
from rarefy.recipes.task import batch_task


class Noted(Silent):
    """Counts what each stage said it would do and what it did."""

    def __init__(self):
        self.counts = {}

    def stage(self, title, total):
        from contextlib import contextmanager

        @contextmanager
        def opened():
            self.counts[title] = [total, 0]
            yield lambda more: self.counts[title].__setitem__(1, self.counts[title][1] + more)

        return opened()


def _task():
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Sequential(nn.Linear(24, 24), nn.GELU()) for _ in range(3)])
    generator = torch.Generator().manual_seed(1)
    return batch_task(net, [torch.randn(32, 24, generator=generator) for _ in range(8)])


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    task, stages = _task(), Noted()
    job = Job("magnitude", 0.8, recover=300, rounds=1)
    return task, stages, compress(task, job, tmp_path_factory.mktemp("o"), stages, "net")


def test_recovery_brings_the_model_closer(done):
    quality = done[2]["quality"]
    assert quality["recovered"]["cosine"] > quality["pruned"]["cosine"] + 0.02
    assert done[2]["recovery"]["steps"] == 300


def test_zeros_stay_through_recovery_and_saving(done):
    task, _, report = done
    weights = [m.weight for m in task.model.modules() if isinstance(m, nn.Linear)]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros == sum(s["zeros"] for s in report["prune"]["sites"])
    assert report["file"]["reload_difference"] == 0.0


def test_every_stage_ends_where_it_said(done):
    assert {title: counts for title, counts in done[1].counts.items() if counts[0] != counts[1]} == {}
    assert "recovering after magnitude" in done[1].counts


def test_a_time_limit_ends_recovery(tmp_path):
    job = Job("magnitude", 0.8, recover=10**6, recover_seconds=1.0, rounds=1)
    report = compress(_task(), job, tmp_path, Silent(), "net")
    assert 1 <= report["recovery"]["steps"] < 10**6
    assert report["recovery"]["seconds"] < 10


def test_a_file_that_gives_other_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compress_save, "load", lambda folder, model: model)  # fills nothing in
    with pytest.raises(FileError, match="outputs differ"):
        compress(_task(), Job("magnitude", 0.8), tmp_path, Silent(), "net")


@pytest.mark.parametrize(
    ("job", "error"),
    [
        (Job("wnada"), UnknownNameError),
        (Job("distill"), UnknownNameError),
        (Job("wanda", options={"nothing": 1}), UnknownNameError),
        (Job(recover=-1), SparsityError),
        (Job(sparsity=1.0), SparsityError),
        (Job(against=("nobody",)), UnknownNameError),
    ],
)
def test_a_wrong_job_is_refused_before_any_work(job, error, tmp_path):
    with pytest.raises(error):
        compress(_task(), job, tmp_path / "o", Silent(), "net")
    assert not (tmp_path / "o").exists()
