"""kill -9 at random moments: what was there is whole, and the work ends as if nothing had been. (`make soak`: many.)"""

import os
import random
import time

import pytest
import torch

from reliability.kills import JOBS, until_done

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
