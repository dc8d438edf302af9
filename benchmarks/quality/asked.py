"""What the benchmarks of this folder have in common: their arguments, their methods and where their tables go."""

import argparse
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rarefy.cli.compare import numbers, words
from rarefy.cli.progress import RichStages
from rarefy.recipes.comparison import Comparison

HERE = Path(__file__).parent


def arguments(doc: str | None, *, sparsity: str, pattern: str, seeds: int) -> argparse.ArgumentParser:
    """The arguments of a benchmark whose page is `doc`, with its defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", default="", help="labels by semicolons; default: all")
    parser.add_argument("--sparsity", default=sparsity)
    parser.add_argument("--pattern", default=pattern)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--collect", action="store_true", help="tables from the cells that are there")
    parser.add_argument("--write", action="store_true", help="copy the table and the plot beside this file")
    return parser


def chosen(methods: Mapping[str, str], asked: argparse.Namespace) -> dict[str, str]:
    """{label: method} of those asked for."""
    labels = asked.methods.split(";") if asked.methods else list(methods)
    return {label: method for label, method in methods.items() if label in labels}


def settings(asked: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `rarefy.compare` that were asked for."""
    return {
        "sparsity": numbers(asked.sparsity),
        "pattern": words(asked.pattern),
        "seeds": asked.seeds,
        "out": asked.out,
        "workers": asked.workers,
        "collect": asked.collect,
        "stages": RichStages(Console()),
    }


def present(run: Callable[[argparse.Namespace], Comparison], asked: argparse.Namespace, name: str) -> None:
    """Runs, prints the table, and with --write copies it beside the benchmarks as `name`."""
    print(run(asked))
    if asked.write:
        for suffix in ("csv", "svg"):
            shutil.copy(asked.out / f"compare.{suffix}", HERE / f"{name}.{suffix}")
        shutil.copy(asked.out / "compare.md", HERE / f"{name}_tables.md")
