"""How much processor time the control groups of Linux allow this process: what `docker --cpus=2` limits."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

_MOUNT = "sys/fs/cgroup"


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Cores' worth of time, rounded up and at least 1; None where nothing is said or nothing is limited.

    The least of the process's group and those above it counts, in version 2 (`cpu.max`) and 1 (`cpu.cfs_quota_us`).
    In a container the group's path is often the host's, and its own group is the mount itself. What is missing or
    cannot be read says nothing. root: where /proc and /sys are.
    """
    limits = []
    for group, unified in _groups(root):
        said = _first_line(group / "cpu.max").split() if unified else _old(group)
        with suppress(ValueError):
            quota, period = map(int, said)  # "max" is no number
            if quota > 0 and period > 0:
                limits.append(max(1, -(-quota // period)))
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, bool]]:
    """(folder, whether of version 2) of this process's groups and those above them, as far as they may be there."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = number == "0" and not controllers
        if unified:
            mounts = ["", "unified"]
        elif "cpu" in controllers.split(","):
            mounts = list(dict.fromkeys((controllers, "cpu", "cpu,cpuacct")))
        else:
            continue
        steps = PurePosixPath(path.lstrip("/"))
        inside = [steps, *steps.parents] if ".." not in steps.parts else [PurePosixPath()]
        yield from ((root / _MOUNT / mount / step, unified) for mount in mounts for step in inside)


def _old(group: Path) -> list[str]:
    return [_first_line(group / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]


def _first_line(path: Path) -> str:
    return _read(path).partition("\n")[0]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):  # a path with a null in it
        return ""
