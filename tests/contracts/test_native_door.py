"""Only `rarefy.ops` imports the native module (import-linter cannot see a module that is no Python file)."""

import ast
from pathlib import Path

import rarefy

ROOT = Path(rarefy.__file__).parent


def imports_native(source: str) -> bool:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value == "rarefy._native":  # importlib.import_module
            return True
        if isinstance(node, ast.Import) and any("_native" in alias.name.split(".") for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if "_native" in names:
                return True
    return False


def test_only_ops_imports_the_native_module() -> None:
    users = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.py") if imports_native(p.read_text("utf-8"))}
    assert users, "rarefy.ops no longer imports the native module: has it been renamed?"
    assert {name.split("/")[0] for name in users} == {"ops"}


def test_every_way_of_importing_is_seen() -> None:
    for line in (
        "import rarefy._native",
        "from rarefy import _native",
        "from rarefy._native import pack",
        "f('rarefy._native')",
    ):
        assert imports_native(line)
    assert not imports_native("from rarefy.ops import native")
