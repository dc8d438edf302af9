"""The impostor rule: a check of a method has to fail for the plain thing that the method claims to beat."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def assert_beats_impostor(check: Callable[[T], None], real: T, impostor: T) -> None:
    """Runs `check(real)`, which has to pass, and `check(impostor)`, which has to fail an assertion.

    check: asserts what the method promises of the one given to it. impostor: of the same kind, without the idea:
    magnitude for a score or solver, uniform for an allocation. Any other exception of the impostor is a broken
    check and is not caught.

    >>> def repairs(solver):
    ...     assert solver == "least squares"
    >>> assert_beats_impostor(repairs, "least squares", "magnitude")
    """
    check(real)
    try:
        check(impostor)
    except AssertionError:
        return
    raise AssertionError(
        f"{check.__name__}: the impostor {impostor!r} passes too, so the check says nothing about {real!r}; "
        "assert what only the method can do"
    )
