"""`rarefy compare`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rarefy.cli.errors import friendly

if TYPE_CHECKING:
    from rarefy.recipes.comparison.subject import Subject


@friendly
def compare(
    model: Annotated[str, typer.Argument(help="A local Hugging Face folder, or module:factory for plain PyTorch.")],
    methods: Annotated[str, typer.Option(help="E.g. magnitude,wanda@owl,sparsegpt+repair=weights; see below.")],
    data: Annotated[
        str, typer.Option(help="Text files by commas; for plain PyTorch module:batches, a .npy or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for compare.{md,csv,json,svg} and the finished cells.")],
    sparsity: Annotated[str, typer.Option(help="Fractions of zeros by commas; 2:4 and the like need none.")] = "",
    pattern: Annotated[
        str, typer.Option(help="By commas: unstructured, rowwise, 2:4, block:4x1, ...")
    ] = "unstructured",
    seeds: Annotated[int, typer.Option(help="Draws of calibration data; the table has mean and deviation.")] = 3,
    task: Annotated[str, typer.Option(help="auto, language-model, encoder, outputs or classifier.")] = "auto",
    calibration: Annotated[int, typer.Option(help="Windows or passages that a seed draws.")] = 64,
    unseen: Annotated[int, typer.Option(help="Windows or passages to measure on.")] = 80,
    window: Annotated[int, typer.Option(help="Tokens of a window of a language model.")] = 256,
    held_out: Annotated[float, typer.Option(help="Fraction at the end of each text that is only measured on.")] = 0.1,
    sts: Annotated[Path | None, typer.Option(help="Csv of sentence,sentence,score, for encoders.")] = None,
    retrieval: Annotated[Path | None, typer.Option(help="Folder in BEIR's layout, for encoders.")] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="module:function(model) that gives a number or {name: number}, instead.")
    ] = None,
    lower_is_better: Annotated[bool, typer.Option(help="Of what --evaluate gives.")] = False,
    ignore: Annotated[
        list[str] | None, typer.Option(help="A layer to leave alone: name, shell pattern or re:... Repeatable.")
    ] = None,
    undivided: Annotated[
        str, typer.Option(help="Layers that a pattern does not divide: error, skip or pad.")
    ] = "error",
    workers: Annotated[int, typer.Option(help="Processes that work at once.")] = 1,
    ray: Annotated[bool, typer.Option("--ray", help="One Ray task a cell, on the cluster that Ray finds.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run cells again that are there.")] = False,
    collect: Annotated[
        bool, typer.Option("--collect", help="Run nothing; tables from the cells that are there.")
    ] = False,
) -> None:
    """Prune a model by several methods, like for like, and show quality, time and memory side by side.

    A method is METHOD, METHOD@ALLOCATION, or either with +NAME=VALUE any number of times: an option of the method,
    repair, or pattern (which stands in for "unstructured"). What is finished is kept in --out: the same command goes
    on where it was stopped.

    Examples:

      rarefy compare my-llama --methods magnitude,wanda@owl,sparsegpt --sparsity 0.5,0.6 --data wiki.txt --out table

      rarefy compare my-bert --methods wanda,sparsegpt+repair=bias --pattern 2:4,4:8 --data texts.txt --out table

      rarefy compare nets:make --methods magnitude,snip --sparsity 0.9 --task classifier --data nets:batches --out t
    """
    from rich.console import Console

    from rarefy.cli.progress import RichStages
    from rarefy.cli.quiet import quiet_libraries
    from rarefy.cli.sources import imported
    from rarefy.recipes.comparison.compare import compare as run
    from rarefy.recipes.comparison.files import NAMES

    quiet_libraries()
    names, levels, patterns = words(methods), numbers(sparsity), words(pattern)
    subject = subject_of(model, data, task, calibration, unseen, window, held_out, sts, retrieval)
    arguments = subject.arguments()
    if evaluate is not None:
        arguments["evaluate"] = imported(evaluate)
    console = Console()
    found = run(
        subject.model,
        names,
        sparsity=levels,
        pattern=patterns,
        seeds=seeds,
        lower_is_better=lower_is_better,
        ignore=tuple(ignore or ()),
        undivided=undivided,
        out=out,
        workers=workers,
        ray=ray,
        fresh=fresh,
        collect=collect,
        stages=RichStages(console),
        name=model,
        said=subject.said,
        **arguments,
    )
    from rarefy.cli.compare_table import print_comparison

    print_comparison(found, console, [out / name for name in NAMES if (out / name).exists()])


def words(text: str) -> list[str]:
    """The parts between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[float]:
    """The numbers between commas."""
    from rarefy.core.errors import SparsityError

    try:
        return [float(part) for part in words(text)]
    except ValueError:
        raise SparsityError(f"--sparsity: {text!r} are no numbers; give fractions such as 0.5,0.6,0.7") from None


def subject_of(
    model: str,
    data: str,
    task: str,
    calibration: int,
    unseen: int,
    window: int,
    held_out: float,
    sts: Path | None,
    retrieval: Path | None,
) -> "Subject":
    """The model with data and evaluation for its kind."""
    from rarefy.cli.sources import batches_of, is_object, model_of
    from rarefy.core.errors import unknown_name
    from rarefy.recipes.comparison.subject import kind_of_folder, plain_subject, sentence_subject
    from rarefy.recipes.encoder import load_text_model
    from rarefy.recipes.evaluations.retrieval import read_beir, read_pairs
    from rarefy.recipes.text import read_passages

    kinds = ("outputs", "classifier") if is_object(model) else ("language-model", "encoder")
    if task not in ("auto", *kinds):
        raise unknown_name("--task", task, ("auto", *kinds))
    if is_object(model):
        return plain_subject(model_of(model), batches_of(data), classifier=task == "classifier")
    folder = Path(model)
    if (kind_of_folder(folder) if task == "auto" else task) == "language-model":
        return _language(folder, words(data), window, calibration, unseen, held_out)
    passages = [passage for name in words(data) for passage in read_passages(Path(name))]
    pairs = read_pairs(sts) if sts is not None else ()
    collection = read_beir(retrieval) if retrieval is not None else None
    return sentence_subject(
        load_text_model(folder), passages, calibration=calibration, unseen=unseen, pairs=pairs, collection=collection
    )


def _language(folder: Path, files: list[str], window: int, calibration: int, unseen: int, held_out: float) -> "Subject":
    from rarefy.core.errors import DataError
    from rarefy.recipes.comparison.subject import encoder_of_folder, language_subject
    from rarefy.recipes.store import load

    texts = []
    for name in files:
        try:
            texts.append(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--data: {name}: cannot be read as UTF-8 text ({error})") from None
    net = load(folder, compiled=False)
    encode = encoder_of_folder(folder, _vocabulary(net))
    return language_subject(
        net, encode, texts, window=window, calibration=calibration, unseen=unseen, held_out=held_out
    )


def _vocabulary(net: Any) -> int:
    return int(getattr(net.config, "vocab_size", 0))
