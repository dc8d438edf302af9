"""Killed at any moment, or refused by the disk: the old model is still there, whole."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import safetensors.torch
import torch
from torch import nn

from rarefy.core.errors import FileError
from rarefy.formats import safe_write
from rarefy.recipes.store import load, save

PROGRAM = """
    import sys, torch
    from torch import nn
    from rarefy.recipes.store import save
    models = []
    for value in (1.0, 2.0):
        model = nn.Linear(1500, 1500)
        with torch.no_grad():
            model.weight.zero_()
            model.weight[:, ::3] = value
            model.bias.fill_(value)
        models.append(model)
    save(models[0], sys.argv[1])
    print("saved", flush=True)
    while True:
        for model in models:
            save(model, sys.argv[1])
"""


def whole(path) -> bool:
    """Every entry of one model, none of the other."""
    model = load(path, model=nn.Linear(1500, 1500))
    value = model.bias[0].item()
    return value in (1.0, 2.0) and bool(
        (model.bias == value).all()
        and (model.weight[:, ::3] == value).all()
        and model.weight.sum() == value * 1500 * 500
    )


def aside(path) -> set[str]:
    """What saves are writing, or left when they were killed."""
    return {name for name in os.listdir(path) if name.endswith(".partial")}


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9_at_random_moments_leaves_a_whole_model(tmp_path) -> None:
    rng, interrupted = random.Random(0), 0
    for _ in range(5):
        before = aside(tmp_path)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout.readline() == "saved\n"
            deadline = time.monotonic() + 20
            while not aside(tmp_path) - before and time.monotonic() < deadline:
                time.sleep(0.0002)
            time.sleep(rng.uniform(0.0, 0.01))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        interrupted += bool(aside(tmp_path) - before)
        assert whole(tmp_path)
    assert interrupted, "no kill came in the middle of a save; the test showed nothing"


def test_a_full_disk_keeps_the_old_model(tmp_path, monkeypatch) -> None:
    old, new = nn.Linear(40, 40), nn.Linear(40, 40)
    save(old, tmp_path)

    def full(parts, path, metadata) -> None:
        with open(path, "wb") as file:
            file.write(safetensors.torch.save(parts, metadata)[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(safe_write, "save_file", full)
    with pytest.raises(FileError, match=r"No space left on device.*old file is untouched; free space"):
        save(new, tmp_path)
    assert torch.equal(load(tmp_path, model=nn.Linear(40, 40)).weight, old.weight)
    assert os.listdir(tmp_path) == ["model.safetensors"]
