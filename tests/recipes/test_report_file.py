"""A report is written whole, read back, and never runs anything."""

import json
import os

import pytest

from rarefy.core.errors import FileError
from rarefy.recipes.report_file import plain, read_report, writable_folder, write_aside


def test_numbers_without_a_word_in_json_become_null():
    assert json.dumps(plain({1: (float("nan"), float("inf"), 2.5)})) == '{"1": [null, null, 2.5]}'


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_aside(path, "old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_aside(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": "other/9"}'])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(FileError, match=r"report\.json"):
        read_report(tmp_path)


def test_no_report_says_what_to_run(tmp_path):
    with pytest.raises(FileError, match="rarefy compress"):
        read_report(tmp_path)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(FileError, match="choose another"):
        writable_folder(tmp_path / "x")
    with pytest.raises(FileError, match="choose another"):
        writable_folder(tmp_path / "x" / "y")
