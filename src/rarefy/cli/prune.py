"""`rarefy prune`."""

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def prune(
    source: Annotated[Path, typer.Argument(help="A local Hugging Face folder of safetensors shards.")],
    target: Annotated[Path, typer.Argument(help="An empty folder, or one that an interrupted run left.")],
    method: Annotated[str, typer.Option(help="How to prune; `rarefy methods` lists all.")] = "sparsegpt",
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of zeros in [0, 1); 2:4 and the like fix it.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A UTF-8 text, or a .npy of token ids (rows, tokens).", show_default=False)
    ] = None,
    rows: Annotated[int, typer.Option(help="How many runs of tokens, or lines, are used.")] = 128,
    length: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    pattern: Annotated[
        str | None, typer.Option(help="unstructured, rowwise, fanin, 2:4, block:4x1, ...", show_default=False)
    ] = None,
    allocation: Annotated[str | None, typer.Option(help="uniform, er, erk.", show_default=False)] = None,
    repair: Annotated[
        str | None, typer.Option(help="weights, bias, block, or joined by +.", show_default=False)
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A layer to leave alone: name, shell pattern or re:... Repeatable.")
    ] = None,
    undivided: Annotated[str, typer.Option(help="Of layers the pattern does not divide: error, skip, pad.")] = "error",
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the method, e.g. damping=0.1. Repeatable.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="What blocks compute in; weights keep the type they have.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the choice of text and of everything else random.")] = 0,
) -> None:
    """Prune a model that need not fit into memory, from a folder of shards to another, one block at a time.

    Interrupted or killed, the same command goes on where it was.

    Examples:

      rarefy prune my-llama sparse-llama --sparsity 0.5 --data text.txt --ignore lm_head

      rarefy prune my-llama sparse-llama --method wanda --pattern 2:4 --data text.txt --rows 64 --length 1024
    """
    from rich.console import Console

    from rarefy.cli.compress import option_of
    from rarefy.cli.progress import SiteBar
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.recipes.folder_data import batches_for
    from rarefy.recipes.prune_folder import prune_folder

    quiet_libraries()
    console = Console()
    with SiteBar(console) as bar:
        report = prune_folder(
            source,
            target,
            method,
            sparsity=sparsity,
            pattern=pattern,
            allocation=allocation,
            data=None if data is None else batches_for(source, data, rows, length, seed),
            ignore=ignore or (),
            undivided=undivided,
            repair=repair,
            seed=seed,
            dtype=dtype,
            progress=bar,
            **dict(map(option_of, option or [])),
        )
    console.print(str(report), highlight=False, markup=False, soft_wrap=True)
