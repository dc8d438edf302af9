"""What a comparison looks like in a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rarefy.cli.tables import grid
from rarefy.recipes.comparison import Comparison
from rarefy.recipes.comparison.table import failures, shown


def print_comparison(found: Comparison, console: Console, paths: Sequence[Path]) -> None:
    """A table a metric, the failures, and where the files are."""
    for metric in found.metrics:
        console.print(_table(found, metric))
    for method in found.methods:
        for condition in found.conditions:
            for why in failures(found, method, condition):
                console.print(Text(f"{method} {condition.label} failed: {why}"))
    console.print(f"wrote {', '.join(map(str, paths))}", markup=False, highlight=False)


def _table(found: Comparison, metric: str) -> Table:
    better = "lower" if metric in found.lower else "higher"
    rows = [[m, *(shown(found.spread(m, c, metric)) for c in found.conditions)] for m in found.methods]
    title = f"{metric}, {better} is better; dense {found.dense[metric]:.4g}"
    return grid(["method", *(c.label for c in found.conditions)], rows, title)
