"""Writes docs/methods.md from the index of registered names; with --check, fails if the page is stale.

Usage: python tools/index.py [--check]
"""

import difflib
import sys
from itertools import groupby
from pathlib import Path

from rarefy.core.registry import entries, load_all

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "methods.md"
HEAD = """# Every method there is

Written by `make index` from what is registered in the code: do not edit. `rarefy methods` prints the same list.
"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page() -> str:
    """The whole page: one table a family."""
    parts = [HEAD]
    for family, found in groupby(entries(), key=lambda e: e.family):
        parts.append(f"\n## {family}\n\n| id | role | protocols | what it does | source |\n|---|---|---|---|---|\n")
        for e in found:
            cells = (f"`{e.id}`", e.role, ", ".join(e.protocols), _cell(e.summary), _cell(e.source))
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
