"""`rarefy doctor`."""

from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def doctor(json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False) -> None:
    """Say what this machine offers, what rarefy will use of it, and what will be slow and why.

    Examples:

      rarefy doctor

      rarefy doctor --json
    """
    from rarefy.recipes.examine import examine

    found = examine()
    if json:
        import json as writer

        typer.echo(writer.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.text import Text

    from rarefy.cli.tables import grid

    console = Console()
    warnings = found.pop("slow")
    rows = [[name, _said(value)] for name, value in found.items()]
    console.print(grid(("what", "found"), rows))
    if not warnings:
        console.print("Nothing found that would make rarefy slow.")
    for line in warnings:
        console.print(Text(f"slow: {line}", style="yellow"))


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
