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


class Place:
    """A module of the running process. Undoes `gc.freeze` (conftest.py), which hides functions from a search."""

    def __init__(self, module: ModuleType) -> None:
        gc.unfreeze()
        self.module = module
        self.functions: dict[str, list[FunctionType]] = {}  # all of a name, also behind wrappers that check types
        for function in _functions_of(vars(module)):
            self.functions.setdefault(function.__qualname__, []).append(function)

    def entered(self, where: str) -> str:
        """The function that is there before any call: `where`, or the outermost that it lies in."""
        return next((name for name in _around(where) if name in self.functions), where)

    def put(self, source: bytes, where: str) -> None:
        """Makes the function `where`, or the data of the module's body, what they are in a mutated source."""
        code = self.module.__spec__.loader.source_to_code(source, self.module.__file__)  # instrumented as it was
        where = self.entered(where)
        function = _inside(code, where)
        live = [f for f in self.functions.get(where, []) if f.__code__.co_filename == self.module.__file__]
        if function is not None:
            for found in live:
                try:
                    found.__code__ = function
                except ValueError as error:  # it closes over other names than before
                    raise NotInPlace from error
        if function is None or not live or _has_other_defaults(code, self.module, where):
            self._put_data(code)
        for value in vars(self.module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()

    def _put_data(self, code: CodeType) -> None:
        """Constants of the module, wherever they were imported to, attributes of its classes, and defaults of its
        functions: what they are after the mutated body has run."""
        from rarefy.core import registry

        if hasattr(self.module, "__path__"):
            raise NotInPlace
        kept, names = dict(registry._INDEX), vars(self.module)
        scratch = {name: names[name] for name in ("__name__", "__file__", "__spec__")}
        exec(code, scratch)
        registry._INDEX.clear()
        registry._INDEX.update(kept)
        others = [vars(m) for name, m in list(sys.modules.items()) if name.partition(".")[0] in ("rarefy", "tests")]
        for name, new in scratch.items():
            old = names.get(name)
            if isinstance(new, type) and isinstance(old, type) and new.__module__ == self.module.__name__:
                _put_attributes(old, new)
            elif not name.startswith("__") and not callable(new) and not isinstance(new, ModuleType):
                for held in others:
                    if name in held and held[name] is old:
                        held[name] = new
        self._put_defaults(scratch)

    def _put_defaults(self, scratch: dict) -> None:
        for new in _functions_of(scratch):
            for old in self.functions.get(new.__qualname__, []):
                if repr(new.__defaults__) != repr(old.__defaults__):
                    old.__defaults__ = new.__defaults__
                if repr(new.__kwdefaults__) != repr(old.__kwdefaults__):
                    old.__kwdefaults__ = new.__kwdefaults__


def _around(where: str) -> list[str]:
    """`where` and the names that it lies in, from the outside."""
    parts = where.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _functions_of(names: dict) -> list[FunctionType]:
    return [f for f in gc.get_objects() if type(f) is FunctionType and f.__globals__ is names]


def _has_other_defaults(code: CodeType, module: ModuleType, where: str) -> bool:
    """Whether the fault may lie in a signature, which belongs to the body around the function."""
    old = module.__spec__.loader.source_to_code(_source(module), module.__file__)
    return _inside(code, where) == _inside(old, where)


def _source(module: ModuleType) -> bytes:
    with open(module.__file__, "rb") as file:
        return file.read()


def _inside(code: CodeType, where: str) -> CodeType | None:
    """The code of a function; None for the body of a module or class, and where several have the name."""
    found = [code]
    for name in where.split("."):
        found = [c for outer in found for c in outer.co_consts if isinstance(c, CodeType) and c.co_name == name]
    return found[0] if len(found) == 1 and found[0].co_flags & 2 else None  # 2: has locals of its own


def _put_attributes(old: type, new: type) -> None:
    for name, value in vars(new).items():
        if not name.startswith("__") and isinstance(value, int | float | tuple | bool | frozenset | type(None)):
            setattr(old, name, value)


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
