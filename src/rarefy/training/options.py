"""Checks of the numbers that methods are given, when they are made and not at the step that first needs them."""

import math
import operator
from numbers import Real
from typing import Any

from rarefy.core.errors import SparsityError


def require_share(name: str, value: Any) -> None:
    """A share of something, from 0 to 1."""
    if not _is_number(value) or not 0.0 <= value <= 1.0:
        raise SparsityError(f"{name}: {value!r} is no share; give a number from 0 to 1")


def require_least(name: str, value: Any, least: float = 0.0, *, above: bool = False) -> None:
    """A finite number, at least so much, or above it."""
    if not _is_number(value) or not math.isfinite(value) or value < least or (above and value == least):
        raise SparsityError(
            f"{name}: {value!r} will not do; give a number {'above' if above else 'of at least'} {least}"
        )


def require_steps(name: str, value: Any) -> None:
    """A whole number of steps, at least 1."""
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise SparsityError(f"{name}: {value!r} is not a positive whole number of steps")


def require_schedule(name: str, value: Any) -> None:
    """A function of the step, or nothing."""
    if value is not None and not callable(value):
        raise SparsityError(f"{name}: {value!r} is no schedule; give a function of the step, step -> fraction")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
