"""Text is cut without loss of order, and what is measured on was never learnt from."""

import pytest

from rarefy.core.errors import DataError
from rarefy.recipes.text import counter, cut, paragraphs, read_passages, runs, split, topic_passages, topics

COUNT = counter(lambda word: [word])


@pytest.fixture(scope="module")
def passages():
    return topic_passages(COUNT)


def _shared(train, evaluation):
    learnt = set().union(*map(runs, train))
    return [p for p in evaluation if runs(p) & learnt]


def test_unseen_passages_share_no_run_of_words_with_the_others(passages):
    parts = split(passages, 300, seed=0)
    assert not set(parts.train) & set(parts.evaluation)
    assert _shared(parts.train, parts.evaluation) == []
    assert len(parts.train) + len(parts.evaluation) > 0.9 * len(passages)


def test_a_plain_split_would_share_some(passages):
    parts = split(passages, 300, seed=0)
    others = [p for p in passages if p not in parts.evaluation]
    assert len(_shared(others, parts.evaluation)) > 0


def test_there_is_enough_text(passages):
    assert len(passages) > 500
    assert all(24 <= len(p.split()) <= 120 for p in passages)


def test_a_paragraph_occurs_once_over_all_topics():
    everything = [p for parts in topics() for p in parts]
    assert len(everything) == len(set(everything))


def test_split_depends_on_the_seed_alone(passages):
    assert split(passages, 100, 3) == split(passages, 100, 3)
    assert split(passages, 100, 3) != split(passages, 100, 4)


def test_repeated_passages_fall_into_one_part():
    parts = split(["a", "b", "c", "d"] * 5, 1)
    assert sorted(parts.train + parts.evaluation) == ["a", "b", "c", "d"]


def test_one_passage_cannot_be_split():
    with pytest.raises(DataError, match="at least 2"):
        split(["same", "same"], 1)


def test_cut_keeps_words_and_bounds():
    words = [str(i) for i in range(500)]
    found = cut([" ".join(words)], COUNT)
    assert " ".join(found).split() == words[: sum(len(p.split()) for p in found)]
    assert all(len(p.split()) <= 120 for p in found)
    assert cut(["too short"], COUNT) == []


def test_rules_under_headings_are_no_words():
    assert paragraphs("Title\n*****\n\nText  here -- a\n====") == ["Title", "Text here -- a"]


def test_text_files_are_read_by_line(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("one\n\n  two \n", encoding="utf-8")
    assert read_passages(file) == ["one", "two"]


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00bad"])
def test_bad_text_files_are_refused(tmp_path, content):
    file = tmp_path / "t.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.txt"):
        read_passages(file)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_passages(tmp_path / "none.txt")
    with pytest.raises(DataError, match="folder"):
        read_passages(tmp_path)
