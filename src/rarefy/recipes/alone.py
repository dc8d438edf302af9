"""A folder that one process at a time works in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rarefy.core.errors import FileError


@contextmanager
def alone(lock: Path, folder: Path, doing: str) -> Iterator[None]:
    """Holds a lock that ends with the process, however it ends; where the system has no such lock, nothing.

    doing: what another process that holds it does in `folder`, for the FileError. lock: a file, made if need be.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(f"{folder}: another process is {doing} it; wait for it, or choose another") from None
        yield
