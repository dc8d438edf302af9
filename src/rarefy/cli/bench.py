"""`rarefy bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rarefy.cli.errors import friendly


@friendly
def bench(
    out: Annotated[Path, typer.Argument(help="A folder that `rarefy compress` or `rarefy demo` wrote.")],
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Rows x tokens to time at, e.g. 16x128. Repeatable. [default: 1x128, 16x128]"),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="Rivals: torch, torch.compile, onnxruntime, openvino, ... [default: all]")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds; 5 or more for figures to rely on.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Threads of everyone.", show_default="torch's own")] = None,
    model: Annotated[
        str | None, typer.Option(help="module:factory of a plain PyTorch model.", show_default=False)
    ] = None,
    data: Annotated[str | None, typer.Option(help="module:batches or a file, for a plain model.")] = None,
    int8: Annotated[bool, typer.Option(help="Also time the model with 8-bit weights and inputs.")] = True,
    new_tokens: Annotated[int, typer.Option(help="Tokens that a language model is timed writing; 0: none.")] = 16,
    layers: Annotated[bool, typer.Option("--layers", help="Also print the choice for every layer.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Also print where the time goes, step by step.")] = False,
) -> None:
    """Time a saved sparse model beside dense engines on this machine.

    The rivals run the same weights, zeros included, which cost a dense engine what any numbers cost.

    Examples:

      rarefy bench sparse-bert --shape 1x64 --shape 32x128

      rarefy bench sparse-net --model mynet:make --data mynet:batches --against torch
    """
    from rich.console import Console

    from rarefy.cli.progress import RichStages
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.cli.tables import bench_tables
    from rarefy.engine import benchmark
    from rarefy.engine import compile as compile_model

    quiet_libraries()
    console = Console()
    loaded, examples = _loaded(out, shape or ["1x128", "16x128"], model, data)
    stages = RichStages(console)
    with stages.stage("compiling, timing kernels by layer", 1) as advance:
        fast = compile_model(loaded, examples, threads=threads)
        advance(1)
    with stages.stage("timing beside the others", len(examples)) as advance:
        found = benchmark(
            fast,
            examples,
            against=against or "all",
            rounds=rounds,
            threads=threads,
            int8=int8,
            new_tokens=new_tokens,
            progress=lambda what, done, total: advance(1 if done else 0),
        )
    _write(out, found.to_dict())
    if layers:
        console.print(str(fast.explain()), soft_wrap=True, highlight=False)
    for table in bench_tables(found.to_dict()):
        console.print(table)
    if profile:
        for example in examples:
            console.print(str(_profiled(fast, example)), soft_wrap=True, highlight=False, markup=False)


def _profiled(fast: Any, example: Any) -> Any:
    """The profile of a call; a language model's is of one token behind as many as the example has."""
    from rarefy.engine import CompiledDecoder
    from rarefy.engine.capture import as_example

    args, kwargs = as_example(example)
    if isinstance(fast, CompiledDecoder):
        ids = args[0] if args else kwargs["input_ids"]
        return fast.profile(past=ids.shape[1])
    return fast.profile(*args, **kwargs)


def _loaded(out: Path, shapes: list[str], model: str | None, data: str | None) -> tuple[Any, list[Any]]:
    from rarefy.cli.sources import batches_of, model_of
    from rarefy.core.errors import DataError, FileError
    from rarefy.recipes.encoder import load_text_model
    from rarefy.recipes.store import load

    if not out.is_dir():
        raise FileError(f"{out}: no such folder; give one that `rarefy compress` wrote")
    if model is not None:
        if data is None:
            raise DataError("--data: missing; a plain model is timed on its first batch: give module:batches or a file")
        return load(out, model=model_of(model)), batches_of(data)[:1]
    text = load_text_model(out)
    return text.model, [text.example(*shape_of(s)) for s in shapes]


def shape_of(text: str) -> tuple[int, int]:
    """(rows, tokens) of `16x128`."""
    from rarefy.core.errors import DataError

    rows, _, tokens = text.partition("x")
    if not (rows.isdigit() and tokens.isdigit() and int(rows) and int(tokens)):
        raise DataError(f"--shape: {text!r} is no ROWSxTOKENS; give e.g. 16x128")
    return int(rows), int(tokens)


def _write(out: Path, found: dict[str, Any]) -> None:
    import json

    from rarefy.recipes.report_file import plain, write_aside

    write_aside(out / "bench.json", json.dumps(plain(found), indent=1) + "\n")
