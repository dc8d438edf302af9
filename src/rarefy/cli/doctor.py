"""`rarefy doctor`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarefy.cli.errors import friendly


@friendly
def doctor(
    model: Annotated[
        Path | None, typer.Argument(help="A saved model to look at too: which layers stay dense, and why.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what this machine offers, what rarefy will use of it, and what will be slow and why.

    Examples:

      rarefy doctor

      rarefy doctor sparse-bert

      rarefy doctor --json
    """
    from rarefy.recipes.examine import examine

    found = examine()
    if model is not None:
        found = _with_model(found, model)
    if json:
        import json as writer

        typer.echo(writer.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.text import Text

    from rarefy.cli.tables import grid

    console = Console()
    warnings = found.pop("slow")
    model_found = found.pop("model", None)
    rows = [[name, _said(value)] for name, value in found.items()]
    if model_found is not None:
        dense = [one["layer"] for one in model_found["stay dense"]]
        rows.append(["layers of the model", f"{model_found['layers']}, {len(dense)} of them dense"])
    console.print(grid(("what", "found"), rows))
    if not warnings:
        console.print("Nothing found that would make rarefy slow.")
    for line in warnings:
        console.print(Text(f"slow: {line}", style="yellow"))


def _with_model(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.recipes.examine_model import examine_model

    quiet_libraries()
    of_model = examine_model(folder)
    return found | {"model": of_model, "slow": found["slow"] + of_model["slow"]}


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={_said(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
