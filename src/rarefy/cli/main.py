"""The `rarefy` command."""

from importlib import metadata
from typing import Annotated

import typer

from rarefy.cli.bench import bench
from rarefy.cli.cache import cache
from rarefy.cli.compare import compare
from rarefy.cli.compress import compress
from rarefy.cli.convert import convert
from rarefy.cli.demo import demo
from rarefy.cli.doctor import doctor
from rarefy.cli.methods import methods
from rarefy.cli.prune import prune
from rarefy.cli.report import report
from rarefy.cli.serve import serve

app = typer.Typer(
    name="rarefy",
    help="Makes neural networks sparse and makes the sparsity pay, in measured time and bytes, on a plain CPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    """Prints the version and leaves if asked; what a callback returns is the option's value."""
    if not asked:
        return False
    try:
        typer.echo(f"rarefy {metadata.version('rarefy')}")
    except metadata.PackageNotFoundError:
        typer.echo("rarefy, version unknown: it runs from a source tree that is not installed")
    raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Makes neural networks sparse and makes the sparsity pay."""


for command in (demo, compress, prune, convert, compare, bench, report, serve, methods, doctor, cache):
    app.command()(command)

if __name__ == "__main__":
    app()
