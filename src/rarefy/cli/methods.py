"""`rarefy methods`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarefy.cli.errors import friendly

if TYPE_CHECKING:
    from rarefy.core.registry import Entry


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
    found = [_facts(entry) for entry in entries(role)]
    if json:
        import json as writer

        typer.echo(writer.dumps(found, indent=1))
        return
    for e in found:
        typer.echo(f"{typer.style(str(e['id']), bold=True)}  {e['family']}, {e['role']} ({', '.join(e['protocols'])})")
        typer.echo(f"    {e['summary']}\n    {e['source']}")


def _facts(entry: "Entry") -> dict[str, Any]:
    names = ("id", "role", "family", "protocols", "source", "summary")
    return {name: getattr(entry, name) for name in names}
