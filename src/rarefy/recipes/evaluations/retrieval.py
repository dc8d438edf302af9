"""Collections of documents, queries and judgements, as files hold them."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rarefy.core.errors import DataError


@dataclass(frozen=True)
class Collection:
    """relevant: {index of a document: grade > 0} of each query, none empty."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    relevant: tuple[Mapping[int, float], ...]


def read_beir(folder: Path, part: str = "test", limit: int | None = None, queries: int | None = None) -> Collection:
    """corpus.jsonl, queries.jsonl and qrels/`part`.tsv, the layout of BEIR (Thakur et al. 2021, arXiv:2104.08663).

    queries: the first so many; limit: keep this many documents: all that are relevant to a query, then the first
    others. Fewer documents make the task easier, so figures with a limit compare with each other only.
    """
    corpus, asked = _lines(folder / "corpus.jsonl"), _lines(folder / "queries.jsonl")
    judged: dict[str, dict[str, float]] = {}
    for query, document, grade in _judgements(folder / "qrels" / f"{part}.tsv"):
        if grade > 0:
            judged.setdefault(query, {})[document] = grade
    judged = dict(list(judged.items())[:queries])
    wanted = {document for grades in judged.values() for document in grades}
    chosen = corpus if limit is None else sorted(corpus, key=lambda row: row["_id"] not in wanted)[:limit]
    index = {str(row["_id"]): i for i, row in enumerate(chosen)}
    texts = {str(row["_id"]): str(row["text"]) for row in asked}
    kept = [query for query, grades in judged.items() if query in texts and any(d in index for d in grades)]
    if not kept:
        raise DataError(f"{folder}: no query of {part} has a relevant document")
    relevant = tuple({index[d]: g for d, g in judged[query].items() if d in index} for query in kept)
    documents = tuple(f"{row.get('title', '')} {row['text']}".strip() for row in chosen)
    return Collection(tuple(texts[query] for query in kept), documents, relevant)


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not a JSON object a line ({error})") from None
    if not rows or not all(map(_is_named, rows)):
        raise DataError(f"{path}: each line needs _id and text")
    return rows


def _is_named(row: object) -> bool:
    return isinstance(row, dict) and isinstance(row.get("_id"), str | int) and "text" in row


def _judgements(path: Path) -> list[tuple[str, str, float]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; a BEIR folder has its judgements in qrels/")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1:]
        return [(query, document, float(grade)) for query, document, grade in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: each line is query, document, grade by tabs ({error})") from None


def read_pairs(path: Path) -> list[tuple[str, str, float]]:
    """(sentence, sentence, score) of a csv file without heading, as STS-B comes."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: Sequence[list[str]] = list(csv.reader(file))
        found = [(first, second, float(score)) for first, second, score in rows]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: is no csv of sentence, sentence, score ({error})") from None
    if len(found) < 2:
        raise DataError(f"{path}: has {len(found)} pair(s); give at least 2")
    return found
