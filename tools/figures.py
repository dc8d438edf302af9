"""Keeps the figures that pages quote equal to the committed tables; with --check, fails where one differs.

A quoted figure is a link to its table whose title names the cell, as tools/tables.py reads it:
`[2.2](../benchmarks/engine/results/mlp-vnni.md "batch=128 > zeros=70% > x best dense")`. It is rounded to as many
decimals as the page shows. Usage: python tools/figures.py [--check]
"""

import re
import sys

from tables import ROOT, figure, rounded

PAGES = (
    "README.md",
    "docs/choosing.md",
    "docs/anchors.md",
    "docs/engine.md",
    "docs/engine-charts.md",
    "docs/sparse-runtime.md",
    "docs/activations-trained.md",
)
_QUOTED = re.compile(r'\[([^\]\n]+)\]\((?:\.\./)*(benchmarks/[^\s)]+\.md) "([^"]+)"\)')


def renewed(text: str) -> tuple[str, list[str]]:
    """The text with every quoted figure as its table has it, and what was not."""
    wrong: list[str] = []

    def renew(found: re.Match[str]) -> str:
        shown, table, selector = found.groups()
        try:
            right = rounded(figure(table, selector), shown)
        except ValueError as error:
            wrong.append(str(error))
            return found[0]
        if right != shown:
            wrong.append(f"{shown!r} is {right!r} in {table}, {selector}")
        return f"[{right}]" + found[0][len(shown) + 2 :]

    return _QUOTED.sub(renew, text), wrong


def quoted(text: str) -> int:
    """How many figures a page quotes."""
    return len(_QUOTED.findall(text))


def main(arguments: list[str]) -> int:
    status = 0
    for name in PAGES:
        path = ROOT / name
        text = path.read_text("utf-8")
        new, wrong = renewed(text)
        if "--check" not in arguments and new != text:
            path.write_text(new, "utf-8")
            wrong = renewed(new)[1]
        for problem in wrong:
            print(f"{name}: {problem}", file=sys.stderr)
        status |= bool(wrong)
    if status:
        print("`make index` renews figures; a cell that is not there any more has to be named anew", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
