"""The files of a comparison: Markdown, csv, JSON and the plot, each replaced whole."""

import csv
import io
import json
from pathlib import Path

from rarefy.formats.atomic import write_text
from rarefy.recipes.comparison.comparison import Comparison
from rarefy.recipes.comparison.table import page
from rarefy.recipes.html_plots import available
from rarefy.recipes.report_file import plain

NAMES = ("compare.md", "compare.csv", "compare.json", "compare.svg")


def write_comparison(found: Comparison, out: Path, title: str = "Methods compared") -> list[Path]:
    """Writes the four files (the plot only where matplotlib is installed) and gives their paths."""
    texts = [page(found, title), as_csv(found), json.dumps(plain(found.to_dict()), indent=1) + "\n"]
    if available() is None:
        from rarefy.recipes.comparison.plot import plot

        texts.append(plot(found))
    paths = [out / name for name in NAMES[: len(texts)]]
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths


def as_csv(found: Comparison) -> str:
    """A row a cell, a heading first."""
    rows, out = found.rows(), io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["method"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
