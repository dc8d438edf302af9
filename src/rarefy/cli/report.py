"""`rarefy report`."""

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def report(
    out: Annotated[Path, typer.Argument(help="A folder that `rarefy compress` or `rarefy demo` wrote.")],
) -> None:
    """Print what was measured for a saved model, and write report.html anew from report.json.

    Example:

      rarefy report sparse-bert
    """
    from rich.console import Console

    from rarefy.cli.tables import print_report
    from rarefy.recipes.html import page
    from rarefy.recipes.report_file import NAME, read_report, write_aside

    found = read_report(out)
    write_aside(out / "report.html", page(found))
    print_report(found, Console(), (out / NAME, out / "report.html"))
