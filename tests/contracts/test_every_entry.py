"""What the index promises of everything that has a name."""

import inspect
import json
import re
from dataclasses import FrozenInstanceError, fields, is_dataclass

import pytest

from contracts.examples import make
from contracts.roundtrip import decode, encode
from rarefy.core.registry import ROLES, Entry, entries

EVERYTHING = [pytest.param(e, id=f"{e.role}-{e.id}") for e in entries()]
MADE = [p for p in EVERYTHING if p.values[0].role not in ("recovery", "study")]  # verbs: called, not made


@pytest.mark.parametrize("entry", EVERYTHING)
def test_source_names_a_publication(entry: Entry) -> None:
    assert re.search(r"arXiv:\d{4}\.\d{4,5}|doi:|\b(19|20)\d\d\b", entry.source), entry.source
    assert entry.role in ROLES


@pytest.mark.parametrize("entry", EVERYTHING)
def test_the_one_line_is_a_sentence(entry: Entry) -> None:
    assert inspect.getdoc(entry.factory)
    assert entry.summary[-1] in ".:" and 10 <= len(entry.summary) <= 110, entry.summary


@pytest.mark.parametrize("entry", MADE)
def test_made_is_a_frozen_dataclass(entry: Entry) -> None:
    made = make(entry)
    assert is_dataclass(made)
    names = [f.name for f in fields(made)]
    with pytest.raises(FrozenInstanceError):
        setattr(made, names[0] if names else "anything", 1)
    hash(made)


@pytest.mark.parametrize("entry", MADE)
def test_fields_survive_json(entry: Entry) -> None:
    made = make(entry)
    assert decode(json.loads(json.dumps(encode(made)))) == made


@pytest.mark.parametrize("entry", EVERYTHING)
def test_ids_are_lower_case_words(entry: Entry) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry.id)
