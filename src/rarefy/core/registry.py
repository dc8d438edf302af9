"""The index of everything that has a name: one decorator, one record, one look-up."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from rarefy.core.errors import unknown_name

F = TypeVar("F", bound=Callable[..., Any])
ROLES = (
    "method",
    "score",
    "pattern",
    "allocation",
    "solver",
    "schedule",
    "transform",
    "selector",
    "format",
    "kernel",
    "recovery",
    "search",
    "study",
)


@dataclass(frozen=True)
class Entry:
    """One registered thing. `protocols` says which of the eight it is or uses, `source` where it was published."""

    id: str
    role: str
    family: str
    protocols: tuple[str, ...]
    source: str
    summary: str
    factory: Callable[..., Any]


_INDEX: dict[tuple[str, str], Entry] = {}


def method(id: str, *, source: str, role: str = "method", protocols: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Registers a factory or a frozen dataclass under `id` for its role.

    `source` names the paper and equation. The first line of the docstring becomes the one line of the index;
    the family is the package the file lies in.
    """
    if role not in ROLES:
        raise unknown_name("method(role=)", role, ROLES)

    def register(factory: F) -> F:
        doc = inspect.getdoc(factory) or ""
        known = _INDEX.get((role, id))
        if known is not None and known.factory.__module__ != factory.__module__:
            raise ValueError(f"@method: {role} {id!r} is already registered by {known.factory.__module__}")
        if not doc or not source:
            raise ValueError(f"@method: {role} {id!r} needs a docstring and a source")
        package, _, inside = factory.__module__.partition(".")
        family = inside.partition(".")[0] if package == "rarefy" else "user"
        _INDEX[(role, id)] = Entry(id, role, family, protocols or (role,), source, doc.splitlines()[0], factory)
        return factory

    return register


def import_all(package: str, path: Iterable[str]) -> None:
    """Imports every module of a package, so that a new file is found without being listed anywhere."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def load_all() -> None:
    """Imports every family of the package (all but the command line), so that whatever has a name is registered."""
    root = importlib.import_module(__name__.split(".")[0])
    for package in pkgutil.iter_modules(root.__path__):
        if package.ispkg and package.name != "cli":
            found = importlib.import_module(f"rarefy.{package.name}")
            for name in getattr(found, "REGISTERS", ()):  # of a floor that is not imported as a whole
                importlib.import_module(f"{found.__name__}.{name}")


def entries(role: str | None = None) -> list[Entry]:
    """All registered entries, sorted by family, role and id."""
    chosen = [e for e in _INDEX.values() if role in (None, e.role)]
    return sorted(chosen, key=lambda e: (e.family, e.role, e.id))


def lookup(role: str, id: str) -> Entry:
    """The entry of a name, or an error that suggests the nearest names, or those whose summary or source has it."""
    if (role, id) not in _INDEX:
        about = {e.id: f"{e.summary.rstrip('.')}; {e.source}" for e in entries(role)}
        raise unknown_name(role, id, about, about)
    return _INDEX[(role, id)]
