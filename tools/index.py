"""Writes docs/methods.md from the index of registered names; with --check, fails if the page is stale.

Formulas are in formulas.toml, the places of measured results in measured.toml, both beside this file.
Usage: python tools/index.py [--check]
"""

import difflib
import re
import sys
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tables import figure

from rarefy.core.registry import Entry, entries, load_all

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
HEAD = """# Every method there is

Written by `make index` from what is registered in the code: do not edit. `rarefy methods` prints the same list.

W is a weight `(out, in)`, X its inputs, H = XᵀX, g the gradient of the loss, m a mask, t a step; `~` says "in
proportion to". Measured results are read from the tables that they lead to: one machine, small models, often one seed;
figures of different tables do not compare. What only the tests check is "not measured here".
"""
COLUMNS = ("id", "role", "what it does", "formula", "measured here", "source", "protocols")


def _data(name: str) -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / name).read_text("utf-8"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def formula(entry: Entry, known: Mapping[str, Mapping[str, str]]) -> str:
    """The formula of an entry, else of the score or solver that a method carries the name of, else a dash."""
    roles = (entry.role, "solver", "score") if entry.role == "method" else (entry.role,)
    found = next((known[r][entry.id] for r in roles if entry.id in known.get(r, {})), None)
    return f"`{_cell(found)}`" if found else "-"


def measured(results: list[dict[str, Any]]) -> dict[str, str]:
    """{role/id: its result, read from the table, and a link there}."""
    found: dict[str, str] = {}
    for result in results:
        cells = [re.sub(r"\s*[\[(].*", "", figure(result["table"], cell)) for cell in result["cells"]]
        link = f"../{result['table']}".replace("../docs/", "")
        text = f"{result['text'].format(*cells)} ([table]({link}))"
        found |= dict.fromkeys(result["of"], text)
    return found


def unknown(known: Mapping[str, Mapping[str, str]], results: Mapping[str, str]) -> list[str]:
    """Names in formulas.toml and measured.toml that nothing is registered under."""
    there = {f"{e.role}/{e.id}" for e in entries()}
    named = {f"{role}/{name}" for role, names in known.items() for name in names}
    return sorted((named | set(results)) - there)


def page() -> str:
    """The whole page: one table a family."""
    known, results = _data("formulas.toml"), measured(_data("measured.toml")["result"])
    if gone := unknown(known, results):
        raise SystemExit(f"tools/formulas.toml or measured.toml names what is not registered: {', '.join(gone)}")
    parts = [HEAD]
    for family, found in groupby(entries(), key=lambda e: e.family):
        parts.append(f"\n## {family}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n")
        for e in found:
            protocols, result = ", ".join(e.protocols), results.get(f"{e.role}/{e.id}", "not measured here")
            cells = (f"`{e.id}`", e.role, _cell(e.summary), formula(e, known), result, _cell(e.source), protocols)
            parts.append(f"| {' | '.join(cells)} |\n")
    return "".join(parts)


def main(arguments: list[str]) -> int:
    load_all()
    new, old = page(), PAGE.read_text("utf-8") if PAGE.exists() else ""
    if "--check" not in arguments:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(new, "utf-8")
        return 0
    if new == old:
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "docs/methods.md", "code"))
    print("\ndocs/methods.md is stale: run `make index` and commit it", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
