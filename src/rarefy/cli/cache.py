"""`rarefy cache`."""

from datetime import datetime
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Forget all measured times and packed weights.")] = False,
    fill: Annotated[bool, typer.Option("--fill", help="Time a grid of layers now, for the cost model.")] = False,
) -> None:
    """Say where measured times and packed weights are kept, forget them, or fill in what the cost model learns from.

    Examples:

      rarefy cache

      rarefy cache --clear

      rarefy cache --fill
    """
    from rarefy.core.errors import DataError
    from rarefy.engine.cache import TimingCache
    from rarefy.engine.shared import clear_packed, packed_files

    known = TimingCache()
    if clear and fill:
        raise DataError("cache: --clear and --fill exclude each other; clear first, then fill")
    if clear:
        typer.echo(f"{known.clear()} records forgotten, {known.path} removed")
        typer.echo(f"{clear_packed()} files of packed weights removed")
        return
    if fill:
        _fill()
    for name, value in known.describe().items():
        typer.echo(f"{name}: {value}")
    for path, nbytes, used in packed_files():
        typer.echo(
            f"packed weights: {path}, {nbytes / 1e6:.1f} MB, last used {datetime.fromtimestamp(used):%Y-%m-%d %H:%M}"
        )


def _fill() -> None:
    from rich.console import Console
    from rich.progress import track

    from rarefy.engine.cache import TimingCache
    from rarefy.engine.fill import fill, grid

    known, cells = TimingCache(), list(grid())
    for cell in track(cells, "timing layers", console=Console(stderr=True)):
        fill([cell], known)
