"""Killed at any moment, a streamed pruning goes on to the very bytes that an uninterrupted one gives.

Most of the time goes into processes of their own (kill -9, peak memory): each imports torch and transformers."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple

import pytest
import torch

import rarefy
from rarefy.core.errors import FileError
from rarefy.formats import shards
from rarefy.recipes.folder_target import WORK
from recipes.folders import batches, sums, write_folder

ASKED = {"method": "sparsegpt", "sparsity": 0.5}
PROGRAM = """
    import sys
    import torch
    torch.set_num_threads(1)
    import rarefy
    from recipes.folders import batches
    source, target = sys.argv[1:]
    print("ready", flush=True)
    rarefy.prune_folder(source, target, "sparsegpt", sparsity=0.5, data=batches(),
                        progress=lambda name, done, total: (print(name, flush=True), sys.stdin.readline()))
"""


@pytest.fixture
def source(tmp_path):
    return write_folder(tmp_path / "source", "llama-tied")


@pytest.fixture
def whole(source, tmp_path):
    """The sums of what a call without interruption writes."""
    rarefy.prune_folder(source, tmp_path / "whole", data=batches(), **ASKED)
    return sums(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is POSIX")
def test_kill_9_at_random_moments(source, whole, tmp_path) -> None:
    rng, target, killed = random.Random(0), tmp_path / "target", 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(source), str(target)]
    for lines in (0, 4, 9):  # of progress, before the kill
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, text=True, env=environment) as process:
            process.stdout.readline()
            for _ in range(lines):  # it waits for an answer to each, so it is never done before the kill
                process.stdout.readline()
                process.stdin.write("\n")
                process.stdin.flush()
            time.sleep(rng.uniform(0.0, 0.05))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert killed == 3, "a process was done before its kill; the test showed nothing"
    report = rarefy.prune_folder(source, target, data=batches(), **ASKED)
    assert sums(target) == whole
    assert report.runs >= 3 and not (target / WORK).exists()


class Crash(BaseException):
    """What no handler in the library may swallow."""


@pytest.mark.parametrize("seed", range(2))
def test_a_crash_at_any_write_or_rename(seed, source, whole, tmp_path, monkeypatch) -> None:
    rng, target, crashes = random.Random(seed), tmp_path / "target", 0
    real, left = {name: getattr(os, name) for name in ("replace", "fsync")}, [0]

    def counted(name):
        def call(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            return real[name](*args, **kwargs)

        return call

    for name in real:
        monkeypatch.setattr(os, name, counted(name))
    while True:
        left[0] = rng.randint(1, 25)
        try:
            report = rarefy.prune_folder(source, target, data=batches(), **ASKED)
            break
        except Crash:
            crashes += 1
    assert crashes > 3
    assert sums(target) == whole
    assert {site.name for site in report.prune.sites} == {*(site.name for site in report.prune.sites), "lm_head"}
    assert not (target / WORK).exists()


def interrupted(source, target, after: int = 9, **asked) -> None:
    """Begins a pruning and breaks off after so many layers."""

    def stop(name: str, done: int, total: int) -> None:
        if done == after:
            raise Crash

    with pytest.raises(Crash):
        rarefy.prune_folder(source, target, data=batches(), progress=stop, **(asked or ASKED))


@pytest.mark.parametrize("asked", [ASKED, {"method": "wanda", "sparsity": 0.5, "repair": "bias+block"}])
def test_it_goes_on_where_it_was(asked, source, tmp_path) -> None:
    rarefy.prune_folder(source, tmp_path / "whole", data=batches(), **asked)
    interrupted(source, tmp_path / "target", **asked)
    done: list[int] = []
    report = rarefy.prune_folder(
        source, tmp_path / "target", data=batches(), progress=lambda name, n, total: done.append(n), **asked
    )
    assert done[0] == 8  # the first block of seven was done, the second is begun anew
    assert report.runs == 2 and sums(tmp_path / "target") == sums(tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"method": "wanda"}, "asked was"),
        ({"sparsity": 0.6}, "asked was"),
        ({"data": batches(2)}, "data was 3 batches.* now 2 batches"),
        ({"ignore": ["lm_head"]}, "ignore was"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"dtype": "float64"}, "dtype was float32, now float64"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_job_is_refused_on_resume(change, says, source, tmp_path) -> None:
    interrupted(source, tmp_path / "target")
    with pytest.raises(FileError, match=f"begun with another job: .*{says}"):
        rarefy.prune_folder(source, tmp_path / "target", **{**ASKED, "data": batches(), **change})


def test_a_changed_source_is_refused_on_resume(source, tmp_path) -> None:
    interrupted(source, tmp_path / "target")
    file = sorted(source.glob("*.safetensors"))[0]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(FileError, match="another job: source was"):
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), **ASKED)


def test_a_disk_that_fills_up_is_one_error_and_no_loss(source, whole, tmp_path, monkeypatch) -> None:
    target, left, real = tmp_path / "target", [12], shards._write_from

    def full(file, view) -> None:
        left[0] -= 1
        if left[0] == 0:
            file.write(view[: len(view) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, view)

    monkeypatch.setattr(shards, "_write_from", full)
    with pytest.raises(
        FileError, match=r"could not be written .*No space left on device.*; free space and run it again"
    ):
        rarefy.prune_folder(source, target, data=batches(), **ASKED)
    rarefy.prune_folder(source, target, data=batches(), **ASKED)
    assert sums(target) == whole


def test_a_disk_that_is_too_small_is_said_at_once(source, tmp_path, monkeypatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    with pytest.raises(FileError, match="on a disk that has 100 free"):
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), **ASKED)


def test_two_at_once_are_refused(source, tmp_path) -> None:
    pytest.importorskip("fcntl")

    def again(name: str, done: int, total: int) -> None:
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), **ASKED)

    with pytest.raises(FileError, match="another process is pruning into it"):
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), progress=again, **ASKED)


def test_lost_hidden_states_are_named(source, tmp_path) -> None:
    interrupted(source, tmp_path / "target")
    shutil.rmtree(tmp_path / "target" / WORK / "hidden")
    with pytest.raises(FileError, match="begin in an empty folder"):
        rarefy.prune_folder(source, tmp_path / "target", data=batches(), **ASKED)


MEMORY = """
    import sys
    import torch
    torch.set_num_threads(1)
    import transformers
    from rarefy.recipes.folder_report import peak_rss
    from rarefy.recipes.prune_folder import prune_folder
    data = [torch.randint(0, 64, (1, 16), generator=torch.Generator().manual_seed(i)) for i in range(2)]
    print(prune_folder(*sys.argv[1:], "wanda", sparsity=0.5, data=data).peak_rss)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory of a process is told by Linux only")
def test_memory_grows_with_a_block_and_not_with_the_depth(tmp_path) -> None:
    import transformers

    peaks, sizes = [], []
    for layers in (2, 14):
        config = transformers.LlamaConfig(
            hidden_size=512,
            intermediate_size=2048,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            vocab_size=64,
        )
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        source = tmp_path / f"source{layers}"
        model.save_pretrained(source, max_shard_size="40MB")
        sizes.append(2 * sum(p.numel() for p in model.parameters()))
        del model
        # What a process takes moves by 30 MB, once in a while by 80: the middle one of three counts.
        peaks.append(sorted(_peak_of(source, tmp_path / f"target{layers}-{again}") for again in range(3))[1])
    assert sizes[1] - sizes[0] > 90e6
    assert peaks[1] - peaks[0] < 0.5 * (sizes[1] - sizes[0])


def _peak_of(source, target) -> int:
    """Bytes that a process of its own takes at most to prune a folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(source), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])
