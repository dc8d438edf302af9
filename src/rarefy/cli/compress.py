"""`rarefy compress`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarefy.cli.errors import friendly

if TYPE_CHECKING:
    from rarefy.recipes.task import Task


@friendly
def compress(
    model: Annotated[str, typer.Argument(help="A local Hugging Face folder, or module:factory for plain PyTorch.")],
    data: Annotated[
        str,
        typer.Option(
            help="A text file with one passage a line; for plain PyTorch module:batches, a .npy or a .safetensors file."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the sparse model and its report.")],
    method: Annotated[str, typer.Option(help="How to prune; `rarefy methods` lists all.")] = "sparsegpt",
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of zeros in [0, 1); 2:4 and the like fix it.")
    ] = None,
    target_speedup: Annotated[
        float | None, typer.Option(help="Times faster than dense torch, measured; instead of --sparsity.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="unstructured, rowwise, fanin, 2:4, block:4x1, ...", show_default=False)
    ] = None,
    allocation: Annotated[str | None, typer.Option(help="uniform, erk, global, owl.", show_default=False)] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A layer to leave alone: name, shell pattern or re:... Repeatable.")
    ] = None,
    recover: Annotated[int, typer.Option(help="Steps of distillation against the dense model, mask fixed.")] = 0,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the method, e.g. damping=0.1 or corrected=true. Repeatable.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Rivals to time beside: torch (default), torch.compile, ..., all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split of the data and of everything else random.")] = 0,
) -> None:
    """Make a model sparse, save it smaller, and measure how close, how fast and how small it is.

    Interrupted or killed, the same command goes on where it was, to the same model. With other arguments, another model
    or other data it begins anew in the same OUT, and says so.

    Examples:

      rarefy compress my-bert --sparsity 0.7 --data texts.txt --out sparse-bert

      rarefy compress my-bert --target-speedup 2 --data texts.txt --out sparse-bert

      rarefy compress my-bert --pattern 2:4 --data texts.txt --recover 300 --out sparse-bert

      rarefy compress mynet:make --method wanda --sparsity 0.8 --data mynet:batches --out sparse-net
    """
    from rich.console import Console

    from rarefy.cli.progress import RichStages
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.cli.tables import print_report
    from rarefy.recipes.compress import compress as run
    from rarefy.recipes.compress_job import Job
    from rarefy.recipes.report_file import report_paths

    quiet_libraries()
    job = Job(
        method,
        sparsity,
        pattern,
        allocation,
        tuple(ignore or ()),
        recover,
        options=dict(map(option_of, option or [])),
        seed=seed,
        against=tuple(against or ("torch",)),
        target_speedup=target_speedup,
    )
    job.check()
    console = Console()
    found = run(task_of(model, data, seed), job, out, RichStages(console), name=model)
    print_report(found, console, report_paths(out))


def option_of(text: str) -> tuple[str, Any]:
    """(name, value) of `name=value`; the value is read as JSON, or as the word it is."""
    import json

    from rarefy.core.errors import DataError

    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise DataError(f"--option: {text!r} is no NAME=VALUE; give e.g. damping=0.1")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def task_of(model: str, data: str, seed: int) -> "Task":
    """The job for a folder with texts, or for a plain model with batches."""
    from rarefy.cli.sources import batches_of, is_object, model_of
    from rarefy.recipes.encoder import load_text_model
    from rarefy.recipes.language_task import language_task, writes
    from rarefy.recipes.task import batch_task, text_task
    from rarefy.recipes.text import read_passages

    if is_object(model):
        return batch_task(model_of(model), batches_of(data), seed=seed)
    passages = read_passages(Path(data))
    text = load_text_model(Path(model))
    return (language_task if writes(text.model) else text_task)(text, passages, calibration=256, seed=seed)
