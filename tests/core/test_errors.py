import pytest

from rarefy.core import errors
from rarefy.core.errors import RarefyError, unknown_name


def test_the_nearest_names_are_suggested() -> None:
    error = unknown_name("method", "wandaa", ["wanda", "magnitude", "sparsegpt"])
    assert str(error) == "method: 'wandaa' is not registered; did you mean 'wanda'?"


def test_all_names_are_listed_where_nothing_is_near() -> None:
    assert "known: magnitude, wanda" in str(unknown_name("method", "zzz", ["wanda", "magnitude"]))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ShapeError", ValueError),
        ("DTypeError", TypeError),
        ("SparsityError", ValueError),
        ("UnknownNameError", KeyError),
        ("EvidenceError", KeyError),
        ("DataError", ValueError),
        ("WeightError", ValueError),
        ("ModelError", ValueError),
        ("SolverError", ArithmeticError),
        ("FileError", ValueError),
        ("EngineError", RuntimeError),
    ],
)
def test_each_error_is_also_the_builtin_one(name: str, builtin: type[Exception]) -> None:
    raised = getattr(errors, name)("where: what")
    assert isinstance(raised, RarefyError)
    assert isinstance(raised, builtin)
    assert str(raised) == "where: what"
