"""`rarefy methods`."""

from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def methods(
    json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    role: Annotated[
        str | None, typer.Option(help="Only: method, score, pattern, allocation, solver, ...", show_default=False)
    ] = None,
) -> None:
    """List everything that is registered: id, family, what it is, where it was published, one line about it.

    Examples:

      rarefy methods --role method

      rarefy methods --json
    """
    from rarefy.core.errors import unknown_name
    from rarefy.core.registry import ROLES, entries
    from rarefy.recipes.families import import_families

    import_families()
    if role is not None and role not in ROLES:
        raise unknown_name("--role", role, ROLES)
    found = [
        {
            "id": e.id,
            "role": e.role,
            "family": e.family,
            "protocols": list(e.protocols),
            "source": e.source,
            "summary": e.summary,
        }
        for e in entries(role)
    ]
    if json:
        import json as writer

        typer.echo(writer.dumps(found, indent=1))
        return
    from rich.console import Console

    from rarefy.cli.tables import grid

    columns = ("id", "role", "family", "protocols", "source", "summary")
    rows = [[", ".join(v) if isinstance(v := e[c], list) else str(v) for c in columns] for e in found]
    Console().print(grid(columns, rows))
