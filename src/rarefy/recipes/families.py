"""Importing every family, so that the index is whole."""

import importlib
import pkgutil

import rarefy

_NO_METHODS = frozenset({"cli", "recipes", "core", "ops"})


def import_families() -> None:
    """Imports each package of rarefy that registers methods; those import their own files."""
    for found in pkgutil.iter_modules(rarefy.__path__):
        if found.ispkg and found.name not in _NO_METHODS:
            importlib.import_module(f"rarefy.{found.name}")
