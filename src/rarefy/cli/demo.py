"""`rarefy demo`."""

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the sparse model, report.html and report.json.")] = Path("out"),
    quick: Annotated[
        bool, typer.Option("--quick", help="Walk through every step in about a minute; its figures are no claim.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(help="Exactly so many steps of recovery, however long they take.", show_default=False)
    ] = None,
    magnitude: Annotated[
        bool, typer.Option("--magnitude", help="Also recover a magnitude-pruned copy with the same steps, to compare.")
    ] = False,
    against: Annotated[
        list[str] | None, typer.Option(help="Rivals to time beside (default: all that are installed).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split of the text and of everything else random.")] = 0,
) -> None:
    """Prune a real sentence encoder to 70 % zeros, recover it, and measure what that brings on this machine.

    Needs no network: the encoder and the text come with installed packages.

    Examples:

      rarefy demo

      rarefy demo --quick --out /tmp/demo
    """
    from dataclasses import replace

    from rich.console import Console

    from rarefy.cli.progress import RichStages
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.cli.tables import print_report
    from rarefy.recipes.demo import DemoJob
    from rarefy.recipes.demo import demo as run
    from rarefy.recipes.report_file import write_report

    console = Console()
    quiet_libraries()
    plan = DemoJob(magnitude=magnitude)
    plan = plan.quick() if quick else plan
    job = replace(plan.job, seed=seed)
    job = job if steps is None else replace(job, recover=steps, recover_seconds=None)
    job = job if not against else replace(job, against=tuple(against))
    found = run(replace(plan, job=job), out, RichStages(console))
    paths = write_report(found, out)
    print_report(found, console, paths)
