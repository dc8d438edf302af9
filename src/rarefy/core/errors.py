"""Every error that a user can cause. Each message says where, what was given, why not, and what to do.

They derive from the built-in error of the same kind too, so `except ValueError` keeps working.
"""

import difflib
import re
from collections.abc import Iterable, Mapping


class RarefyError(Exception):
    """Base of all errors raised on purpose by rarefy."""


class ShapeError(RarefyError, ValueError):
    """Two shapes, or a shape and a pattern, do not go together."""


class DTypeError(RarefyError, TypeError):
    """A tensor has a type that the operation does not take."""


class SparsityError(RarefyError, ValueError):
    """An asked sparsity or density is out of range or contradicts the pattern."""


class _LookupFailed(RarefyError, KeyError):
    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0])


class UnknownNameError(_LookupFailed):
    """A name is not registered; the message suggests the nearest ones."""


class EvidenceError(_LookupFailed):
    """A method needs something that was not collected."""


class DataError(RarefyError, ValueError):
    """Calibration or training data are missing, empty, of the wrong shape, or not finite."""


class WeightError(RarefyError, ValueError):
    """A weight holds NaN or infinity."""


class ModelError(RarefyError, ValueError):
    """The model has nothing to prune, or cannot be handled as asked."""


class SolverError(RarefyError, ArithmeticError):
    """A solver could not do its own job; it never does another's instead."""


class FileError(RarefyError, ValueError):
    """A file is truncated, tampered with, or of an unknown layout."""


class EngineError(RarefyError, RuntimeError):
    """The native engine cannot do what was asked."""


def unknown_name(
    what: str, given: str, known: Iterable[str], about: Mapping[str, str] | None = None
) -> UnknownNameError:
    """The error for an unregistered name, with the nearest registered ones.

    about: what is said of some names. Where no name is near and the given one is a word of up to three of these, they
    are meant: "admm" is how `alps` works.
    """
    names = sorted(known)
    folded = {name.lower(): name for name in names}

    def near(cutoff: float) -> list[str]:
        return [folded[name] for name in difflib.get_close_matches(given.lower(), folded, n=3, cutoff=cutoff)]

    word = re.compile(rf"(?<!\w){re.escape(given)}(?!\w)", re.IGNORECASE)
    told = {name: said for name, said in (about or {}).items() if len(given) > 2 and word.search(said)}
    if 0 < len(told) <= 3 and not near(0.8):
        hint = " or ".join(f"{name!r} ({said})" for name, said in sorted(told.items()))
        return UnknownNameError(f"{what}: {given!r} is not registered; did you mean {hint}?")
    nearest = near(0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else f"known: {', '.join(names)}"
    return UnknownNameError(f"{what}: {given!r} is not registered; {hint}")
