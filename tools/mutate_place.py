"""Puts a mutant into the modules of the running process, and sees which functions a test enters."""

import contextlib
import gc
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType


class NotInPlace(Exception):
    """A mutant that takes a fresh import of the package."""


def module_of(path: Path) -> ModuleType | None:
    """The imported module of a file."""
    return next((m for m in list(sys.modules.values()) if getattr(m, "__file__", None) == str(path)), None)


def put(module: ModuleType, source: bytes, where: str) -> None:
    """Makes the functions of a module, or the data of its body, what they are in a mutated source."""
    code = module.__spec__.loader.source_to_code(source, module.__file__)  # as the module's own was instrumented
    function = _inside(code, where)
    if function is not None and _functions(module, where):
        for found in _functions(module, where):
            try:
                found.__code__ = function
            except ValueError as error:  # it closes over other names than before
                raise NotInPlace from error
    _put_data(module, code)
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


def _inside(code: CodeType, where: str) -> CodeType | None:
    """The code of a function; None for the body of a module or class, and where several have the name."""
    found = [code]
    for name in where.split("."):
        found = [c for outer in found for c in outer.co_consts if isinstance(c, CodeType) and c.co_name == name]
    return found[0] if len(found) == 1 and found[0].co_flags & 2 else None  # 2: has locals of its own


def _functions(module: ModuleType, where: str) -> list[FunctionType]:
    """All that stand for a function, also behind the wrappers that check its types."""
    said = (module.__file__, where)
    return [f for f in _of_type(FunctionType) if (f.__code__.co_filename, f.__code__.co_qualname) == said]


def _of_type(kind: type) -> list:
    return [found for found in gc.get_objects() if isinstance(found, kind)]


def _put_data(module: ModuleType, code: CodeType) -> None:
    """Constants of the module, wherever they were imported to, attributes of its classes, and defaults of its
    functions: what they are after the mutated body has run."""
    from rarefy.core import registry

    kept = dict(registry._INDEX)
    scratch = {"__name__": module.__name__, "__file__": module.__file__, "__spec__": module.__spec__}
    if hasattr(module, "__path__"):
        raise NotInPlace
    exec(code, scratch)
    registry._INDEX.clear()
    registry._INDEX.update(kept)
    others = [vars(m) for name, m in list(sys.modules.items()) if name.partition(".")[0] in ("rarefy", "tests")]
    for name, new in scratch.items():
        old = vars(module).get(name)
        if isinstance(new, type) and isinstance(old, type) and new.__module__ == module.__name__:
            _put_attributes(old, new)
        elif not name.startswith("__") and not callable(new) and not isinstance(new, ModuleType):
            for names in others:
                if name in names and names[name] is old:
                    names[name] = new
    _put_defaults(module, scratch)


def _put_attributes(old: type, new: type) -> None:
    for name, value in vars(new).items():
        if not name.startswith("__") and isinstance(value, int | float | tuple | bool | frozenset | type(None)):
            setattr(old, name, value)


def _put_defaults(module: ModuleType, scratch: dict) -> None:
    """Of the functions that both have, found by name, also behind wrappers; `__init__` of dataclasses as well."""
    made: dict[str, FunctionType] = {}
    mine: dict[str, list[FunctionType]] = {}
    for function in _of_type(FunctionType):
        if function.__module__ == module.__name__:
            if function.__globals__ is scratch:
                made[function.__qualname__] = function
            elif function.__globals__ is vars(module):
                mine.setdefault(function.__qualname__, []).append(function)
    for name, new in made.items():
        for old in mine.get(name, []):
            if _plain(new.__defaults__) != _plain(old.__defaults__):
                old.__defaults__ = new.__defaults__
            if _plain(new.__kwdefaults__) != _plain(old.__kwdefaults__):
                old.__kwdefaults__ = new.__kwdefaults__


def _plain(values: object) -> str:
    return repr(values) if values is not None else ""


@contextlib.contextmanager
def watched(paths: Collection[str], names: set[tuple[str, str]]) -> Iterator[None]:
    """Collects (file, function) of each function that is entered; of a function inside a function, the outer one."""

    def note(frame, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename in paths:
            names.add((frame.f_code.co_filename, frame.f_code.co_qualname.partition(".<")[0]))

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
