"""`rarefy convert`."""

from pathlib import Path
from typing import Annotated

import typer

from rarefy.cli.errors import friendly


@friendly
def convert(
    source: Annotated[Path, typer.Argument(help="A model's folder or file, in any layout that rarefy reads.")],
    target: Annotated[Path, typer.Argument(help="Folder for the converted model.")],
    to: Annotated[str, typer.Option(help="hf, bitmask, bitmask-24, onnx, openvino or gguf-dense.")] = "hf",
    adapter: Annotated[
        Path | None, typer.Option(help="A PEFT folder (SHiRA, Super-Tuning) to merge in first.", show_default=False)
    ] = None,
    shard_bytes: Annotated[int, typer.Option(help="Largest weight file of hf and bitmask.")] = 5 * 10**9,
    sparse_initializers: Annotated[
        bool, typer.Option("--sparse-initializers", help="ONNX without the zeros: smaller on disk, no faster.")
    ] = False,
) -> None:
    """Write a model for another program, its zeros exactly where they are.

    Examples:

      rarefy convert sparse-bert for-openvino --to openvino

      rarefy convert llama-bitmask llama-dense --to hf

      rarefy convert my-llama merged --adapter my-shira
    """
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.recipes.convert import Options
    from rarefy.recipes.convert import convert as run

    quiet_libraries()
    typer.echo(str(run(source, target, to, Options(adapter, shard_bytes, sparse_initializers))))
