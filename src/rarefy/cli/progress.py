"""Progress bars for the stages of a job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_COLUMNS = (
    TextColumn("{task.description:<40}"),
    BarColumn(bar_width=12),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
)


class SiteBar:
    """One bar over the layers of a model, with the name of the one that was done last."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(*_COLUMNS, console=console, refresh_per_second=4)
        self.task: TaskID | None = None

    def __enter__(self) -> "SiteBar":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.progress.add_task(name, total=total)
        self.progress.update(self.task, description=name, completed=done)


class RichStages:
    """One bar a stage; where the output is no terminal, one line when the stage is done."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        with Progress(*_COLUMNS, console=self.console, refresh_per_second=4) as progress:
            task = progress.add_task(title, total=total)
            yield lambda more: progress.advance(task, more)
            progress.update(task, completed=total)

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
