"""A user's mistake is one red line, not a traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")


def friendly(command: Callable[P, R]) -> Callable[P, R]:
    """The command; errors that rarefy raises on purpose, and those of the disk, become one line and exit code 2."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from rarefy.core.errors import RarefyError

        try:
            return command(*args, **kwargs)
        except (RarefyError, OSError) as error:
            from rich.console import Console
            from rich.text import Text

            line = " ".join(str(error).split())
            Console(stderr=True, soft_wrap=True).print(Text(f"error: {line}", style="bold red"))
            raise typer.Exit(2) from None

    return run
