"""A file is the old one or the new one, whole, whatever fails."""

import errno
import os
import subprocess
import sys
import textwrap
import time

import pytest

from rarefy.core.errors import FileError
from rarefy.formats.atomic import replace_file, write_text


def test_replaces_and_leaves_nothing_beside(tmp_path) -> None:
    file = tmp_path / "deep" / "x.json"
    write_text(file, "old")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert os.listdir(file.parent) == ["x.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path) -> None:
    file = tmp_path / "x"
    write_text(file, "old")

    def half(aside) -> None:
        aside.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(FileError, match=r"No space left.*old file is untouched"):
        replace_file(file, half)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_an_error_of_the_writer_is_not_dressed_up(tmp_path) -> None:
    def broken(aside) -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        replace_file(tmp_path / "x", broken)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file"):
        write_text(tmp_path / "file" / "x", "text")


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
def test_mode_is_kept_or_the_process_default(tmp_path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "a")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    (tmp_path / "new").chmod(0o604)
    write_text(tmp_path / "new", "b")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o604


def test_the_bytes_are_synced_before_the_rename(tmp_path, monkeypatch) -> None:
    order = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("sync"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b)))
    write_text(tmp_path / "x", "text")
    assert order == ["sync", "replace", "sync"]


def test_leftovers_of_a_killed_save_are_swept_later_but_not_at_once(tmp_path) -> None:
    file = tmp_path / "x[1]"
    for name, age in ((".x[1].old.partial", 7200), (".x[1].live.partial", 0), (".other.old.partial", 7200)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_text(file, "text")
    assert sorted(os.listdir(tmp_path)) == [".other.old.partial", ".x[1].live.partial", "x[1]"]


@pytest.mark.skipif(os.name == "nt", reason="limits are POSIX")
def test_a_real_failing_write_of_the_weights_leaves_the_old_file(tmp_path) -> None:
    """The kernel refuses the write half way, as it does on a full disk."""
    program = """
        import resource, signal, sys, torch
        from pathlib import Path
        from rarefy.core.errors import FileError
        from rarefy.formats.container import prepare, write
        path = Path(sys.argv[1])
        write(path, prepare({"a": torch.zeros(1000)}))
        old = path.read_bytes()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write(path, prepare({"a": torch.ones(1_000_000)}))
        except FileError as error:
            assert "old file is untouched" in str(error), error
            assert path.read_bytes() == old
            assert [p.name for p in path.parent.iterdir()] == [path.name]
            print("refused")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "m.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == "refused", run.stderr
