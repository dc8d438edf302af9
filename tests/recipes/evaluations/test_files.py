"""Collections and pairs as files hold them, good and bad."""

import json

import pytest

from rarefy.core.errors import DataError
from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs


@pytest.fixture
def beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    corpus = [{"_id": str(i), "title": f"t{i}", "text": f"x{i}"} for i in range(6)]
    queries = [{"_id": q, "text": f"about {q}"} for q in ("a", "b", "c")]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = ["query-id\tcorpus-id\tscore", "a\t5\t1", "b\t4\t2", "b\t3\t0", "z\t1\t1"]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines))
    return tmp_path


def test_queries_with_a_relevant_document_are_kept(beir):
    found = read_beir(beir)
    assert found.queries == ("about a", "about b")
    assert found.documents == tuple(f"t{i} x{i}" for i in range(6))
    assert found.relevant == ({5: 1.0}, {4: 2.0})


def test_a_limit_keeps_what_is_relevant(beir):
    found = read_beir(beir, limit=4)
    assert found.documents[:3] == ("t1 x1", "t4 x4", "t5 x5")  # relevant to z, b and a
    assert found.relevant == ({2: 1.0}, {1: 2.0})
    assert read_beir(beir, queries=1).queries == ("about a",)


def test_files_that_cannot_be_read_say_which(beir):
    (beir / "queries.jsonl").write_text('{"_id": "a"}')
    with pytest.raises(DataError, match=r"queries.jsonl.*_id and text"):
        read_beir(beir)
    (beir / "corpus.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"corpus.jsonl"):
        read_beir(beir)
    for name in ("corpus", "queries"):
        (beir / f"{name}.jsonl").write_text('{"_id": "1", "text": "x"}')
    with pytest.raises(DataError, match=r"dev.tsv does not exist"):
        read_beir(beir, part="dev")


def test_pairs(tmp_path):
    path = tmp_path / "sts.csv"
    path.write_text('a b,c d,2.5\n"e, f",g,0\n')
    assert read_pairs(path) == [("a b", "c d", 2.5), ("e, f", "g", 0.0)]
    for text in ("a,b\n", "a,b,c\n", "a,b,1\n", ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"sts.csv"):
            read_pairs(path)
    with pytest.raises(DataError, match=r"none.csv"):
        read_pairs(tmp_path / "none.csv")
