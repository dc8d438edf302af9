"""More real text that every CPython carries: the docstrings of its standard library."""

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from rarefy.recipes.text import Count, cut, paragraphs

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data", "__pycache__"}


def docstring_passages(count: Count, limit: int, seed: int = 0) -> list[str]:
    """Up to `limit` passages from modules of the standard library, taken in an order that the seed shuffles."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [f for f in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(f.relative_to(root).parts)]
    random.Random(seed).shuffle(files)
    seen: set[str] = set()
    found: list[str] = []
    for file in files:
        if len(found) >= limit:
            break
        fresh = [part for text in _docstrings(file) for part in paragraphs(text) if part not in seen]
        seen.update(fresh)
        found += cut(list(dict.fromkeys(fresh)), count)
    return found[:limit]


def _docstrings(file: Path) -> Iterator[str]:
    """The docstrings of a source file, none of a file that does not parse; nothing is imported or run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old sources
            tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, OSError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
