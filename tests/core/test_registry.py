from dataclasses import dataclass

import pytest

from rarefy.core import registry
from rarefy.core.errors import UnknownNameError
from rarefy.core.registry import entries, load_all, lookup, method


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    load_all()
    monkeypatch.setattr(registry, "_INDEX", dict(registry._INDEX))


def test_a_registered_thing_is_found_with_all_that_is_known_of_it() -> None:
    @method("mine", role="score", source="Me 2026")
    @dataclass(frozen=True)
    class Mine:
        """A score of mine.

        More words.
        """

    entry = lookup("score", "mine")
    assert (entry.family, entry.summary, entry.source, entry.factory) == ("user", "A score of mine.", "Me 2026", Mine)
    assert entry in entries("score")
    assert entry not in entries("pattern")


def test_families_are_the_packages() -> None:
    assert lookup("method", "wanda").family == "pruning"
    assert lookup("score", "magnitude").family == "scores"


def test_roles_do_not_share_names() -> None:
    assert lookup("method", "magnitude").factory is not lookup("score", "magnitude").factory


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sparsegpt'"):
        lookup("method", "sparse-gpt")


@pytest.mark.parametrize(
    ("role", "given", "meant"),
    [
        ("method", "admm", "'alps' (ADMM on "),
        ("method", "ADMM", "'alps' (ADMM on "),
        ("method", "OBC", "'obs' (Exact "),
    ],
)
def test_a_word_of_a_summary_or_a_source_leads_to_the_name(role: str, given: str, meant: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        lookup(role, given)
    assert str(error.value).startswith(f"{role}: {given!r} is not registered; did you mean {meant}")
    assert "random" not in str(error.value)


@pytest.mark.parametrize("given", ["the", "w", "wand", "gradients", "(", ""])
def test_words_that_many_have_parts_of_words_and_near_names_lead_to_no_other(given: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        lookup("method", given)
    assert " (" not in str(error.value).split("registered; ")[1]


def test_a_name_is_given_once() -> None:
    def other() -> None:
        """Another wanda."""

    other.__module__ = "somewhere.else"
    with pytest.raises(ValueError, match=r"already registered by rarefy\.pruning\.wanda"):
        method("wanda", source="x 2020")(other)


def test_source_and_docstring_are_asked_for() -> None:
    def silent() -> None: ...

    with pytest.raises(ValueError, match="needs a docstring and a source"):
        method("silent", source="x 2020")(silent)

    def spoken() -> None:
        """Something."""

    with pytest.raises(ValueError, match="needs a docstring and a source"):
        method("spoken", source="")(spoken)


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'score'"):
        method("x", source="y 2020", role="scores")
