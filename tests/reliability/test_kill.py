"""kill -9 at random moments: what was there is whole, and the work ends as if nothing had been. (`make soak`: many.)"""

import os
import random
import time

import pytest
import torch

from reliability.kills import JOBS, compress_one, killed_inside, until_done, weights

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 and fork are POSIX")


@pytest.mark.parametrize("name", ["save", "compress", "train"])  # compare: comparison/test_runners.py, and `make soak`
def test_killed_work_ends_as_if_nothing_had_been(name: str, tmp_path) -> None:
    torch.set_num_threads(1)  # a forked child has no threads of its parent
    job, rng = JOBS[name], random.Random(name)
    calm, again, killed = (tmp_path / name for name in ("calm", "again", "killed"))
    calm.mkdir(), again.mkdir(), killed.mkdir()
    job.run(calm)
    began = time.monotonic()  # the first run imports what the forked children have already
    job.run(again)
    longest = time.monotonic() - began
    assert until_done(job, killed, rng, longest, kills=8) >= 2, "hardly a kill came in time; the test showed nothing"
    assert job.result(killed) == job.result(calm)


RECOVERY = "recovering after magnitude"
PLACES = [  # where a kill comes, and what that run was told first; the same command each time
    ("outputs of the dense model", 0, "outputs of the dense model"),
    ("pruning with magnitude", 1, "outputs of the dense model"),
    (RECOVERY, 4, "going on after measuring the dense model"),
    (RECOVERY, 9, "going on after pruning, from step 3 of recovery"),
    ("quality after recovery", 1, "going on after pruning, from step 8 of recovery"),
    ("saving and reloading", 1, "going on after recovery"),
    ("compiling, timing kernels by layer", 0, "going on after recovery"),
    ("", 0, "going on after saving"),
]


def test_a_compression_killed_in_stage_after_stage_does_each_of_them_once(tmp_path) -> None:
    torch.set_num_threads(1)
    calm, folder, notes = tmp_path / "calm", tmp_path / "killed", tmp_path / "notes"
    compress_one(0, calm)
    told = []
    for at, after, first in PLACES:
        assert killed_inside(folder, notes, at, after) == bool(at)
        lines = notes.read_text().splitlines()
        notes.unlink()
        assert lines[0] == first
        told += lines
    assert told.count("pruning with magnitude") == 2  # the one that was killed, and the one that ended
    assert told.count("quality after pruning") == 1 and told.count("saving and reloading") == 2
    assert weights(folder) == weights(calm)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in calm.iterdir())
