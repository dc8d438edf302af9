"""Figures out of the committed Markdown tables of benchmarks/, by a short selector.

A selector is a list of words with ` > ` between them, the last one a column: `batch=128 > zeros=90% > x best dense`
(`x torch eager#2` is the second column of that name). A word before it is either `header=cell` or a cell of the row's
first column; `2:8:: ` in front limits the search to tables whose headings, joined by ` / `, contain that text. `line:
text` instead names the only line that contains the text, and the figure is the first number behind its "got", or behind
the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*")


@dataclass(frozen=True)
class Table:
    """One table: the headings above it, its column names, and its rows as text."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _cells(line: str) -> tuple[str, ...]:
    found = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return tuple(cell.replace("**", "").strip() for cell in found)


def tables(text: str) -> Iterator[Table]:
    """Every table of a Markdown page, top to bottom."""
    headings, block = dict[int, str](), list[str]()
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if len(block) > 1:
            head, _, *rows = map(_cells, block)
            yield Table(" / ".join(headings.values()), _numbered(head), tuple(rows))
        block = []
        if line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            headings = {k: v for k, v in headings.items() if k < level} | {level: line.strip("# ")}


def _numbered(names: tuple[str, ...]) -> tuple[str, ...]:
    """Column names, a second one of the same name with `#2` behind it."""
    return tuple(n if (i := names[:at].count(n)) == 0 else f"{n}#{i + 1}" for at, n in enumerate(names))


@cache
def page(path: str) -> str:
    """The text of a page, by its path from the root of the repository."""
    return (ROOT / path).read_text("utf-8")


def figure(path: str, selector: str) -> str:
    """The one cell (or line) that a selector names, as it stands there; ValueError if there is none, or several."""
    if selector.startswith("line:"):
        return _of_line(path, selector.removeprefix("line:").strip())
    section, mark, rest = selector.partition(":: ")
    *words, column = [w.strip() for w in (rest if mark else selector).split(" > ")]
    found = [
        row[table.columns.index(column)]
        for table in tables(page(path))
        if column in table.columns and (not mark or section.strip() in table.heading)
        for row in table.rows
        if all(_fits(table, row, word) for word in words)
    ]
    if len(found) != 1:
        raise ValueError(f"{path}: {selector!r} names {len(found)} cells; add a section, a row or header=cell")
    return found[0]


def _fits(table: Table, row: tuple[str, ...], word: str) -> bool:
    header, mark, cell = word.partition("=")
    if mark and header in table.columns:
        return row[table.columns.index(header)] == cell
    return row[0] == word


def _of_line(path: str, text: str) -> str:
    lines = [line for line in page(path).splitlines() if text in line]
    if len(lines) != 1:
        raise ValueError(f"{path}: {len(lines)} lines contain {text!r}")
    behind = lines[0].rpartition("got ")[2] if "got " in lines[0] else lines[0].partition(text)[2]
    found = _NUMBER.search(behind)
    if found is None:
        raise ValueError(f"{path}: no number behind {text!r}")
    return found.group().rstrip(".")


def number(text: str) -> float:
    """The first number of a text."""
    found = _NUMBER.search(text)
    if found is None:
        raise ValueError(f"no number in {text!r}")
    return float(found.group().replace(",", ""))


def rounded(cell: str, like: str) -> str:
    """The first number of a cell with as many decimals as the first one of `like` has, inside the text of `like`."""
    found = _NUMBER.search(like)
    if found is None:
        raise ValueError(f"no number in {like!r}")
    decimals = len(found.group().partition(".")[2])
    exact = number(cell)
    # half away from zero in decimals, as people round: 2.445 is 2.45, which binary floats would make 2.44
    scaled = int(abs(exact) * 10**decimals + 0.5 + 1e-9)
    text = f"{scaled / 10**decimals:.{decimals}f}"
    return like[: found.start()] + ("-" if exact < 0 else "") + text + like[found.end() :]
