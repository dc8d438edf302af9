"""The limit on processor time is found in every layout of control groups, and nonsense is no limit."""

import os
from pathlib import Path

import pytest

from rarefy.recipes.cpu_quota import cpu_quota
from rarefy.recipes.environment import usable_cores

V1 = "12:pids:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/system.slice\n"


def system(root: Path, cgroup: str | None, files: dict[str, str]) -> Path:
    """Files whose name ends in a slash are folders."""
    named = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if cgroup is not None:
        named["proc/self/cgroup"] = cgroup
    for name, text in named.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if name.endswith("/") else (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "300000 100000\n"}, 1),
        ("0::/docker/of-the-host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/../other\n", {"cpu.max": "200000 100000\n", "../../../other/cpu.max": "100000 100000\n"}, 2),
        ("0::/a:b\n", {"a:b/cpu.max": "200000 100000\n"}, 2),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "250000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/docker/x/cpu.cfs_quota_us": "50000\n", "cpu/docker/x/cpu.cfs_period_us": "100000\n"}, 1),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n"}, None),
        (V1, {"pids/cpu.cfs_quota_us": "200000\n", "pids/cpu.cfs_period_us": "100000\n"}, None),
        (V1, {"unified/system.slice/cpu.max": "500000 100000\n"}, 5),
        ("0::/\n", {"cpu.max": "200000 0\n"}, None),
        ("0::/\n", {"cpu.max": "-5 100000\n"}, None),
        ("0::/\n", {"cpu.max": ""}, None),
        ("0::/\n", {"cpu.max": "1 2 3\n"}, None),
        ("0::/\n", {"cpu.max/": ""}, None),
        ("0::/\n", {}, None),
        ("0:://a/\0\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::\n", {"cpu.max": "200000 100000\n"}, 2),
        ("nonsense\n\n:::\n", {"cpu.max": "200000 100000\n"}, None),
        (None, {"cpu.max": "200000 100000\n"}, None),
    ],
)
def test_the_least_limit_counts_rounded_up(tmp_path, cgroup, files, cores) -> None:
    assert cpu_quota(system(tmp_path, cgroup, files)) == cores


def test_cores_are_the_smaller_of_the_quota_and_those_to_run_on(tmp_path, monkeypatch) -> None:
    root = system(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cores(root) == 2
    assert usable_cores(tmp_path / "nothing") == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert usable_cores(root) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert usable_cores(root) == 2
    assert usable_cores(tmp_path / "nothing") == 4


def test_what_may_not_be_read_is_no_limit(tmp_path, monkeypatch) -> None:
    root = system(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"})

    def refused(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refused)
    assert cpu_quota(root) is None
