"""A file is either the old one or the new one, whole: write aside, sync, rename."""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from rarefy.core.errors import FileError

_SUFFIX = ".partial"
_STALE_SECONDS = 3600.0  # a save that still runs has touched its folder more recently


def replace_file(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Calls `write` with a path in a fresh folder beside `path`, then moves the result over `path`.

    The bytes are on the disk before the rename and the rename is on the disk on return, so a kill or a power cut at
    any moment leaves the old file or the new one. If `write` fails the old file is untouched and a FileError says so.
    What a killed save left aside is swept by a later one. durable: False lets the system choose when the bytes go to
    the disk, for a file that can be made again: after a power cut, and only then, it may be there in part.
    """
    path = Path(path)
    with _reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=path.parent))
        try:
            write(aside / path.name)
            _give_mode(aside / path.name, path)
            if durable:
                _sync(aside / path.name)
            os.replace(aside / path.name, path)
            if durable:
                _sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """`replace_file` for a small text."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    replace_file(path, write)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, FileError) or not _is_about_files(error):
            raise
        state = "the old file is untouched" if path.exists() else "nothing was left behind"
        raise FileError(
            f"{path}: could not be written ({error}); {state}; free space or choose another path"
        ) from error


def _is_about_files(error: Exception) -> bool:
    return isinstance(error, OSError | SafetensorError)


def _give_mode(new: Path, old: Path) -> None:
    """The mode of the file that is replaced, or what the process gives new files; temporary files are private."""
    if old.exists():
        mode = old.stat().st_mode & 0o777
    else:
        probe = new.with_name(new.name + ".mode")
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # reading the umask would change it
        mode = probe.stat().st_mode & 0o777
        probe.unlink()
    new.chmod(mode)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # a folder cannot be opened there, and its renames need no sync
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
