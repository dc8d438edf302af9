"""Pruning a model that need not fit into memory: from a folder of safetensors shards to another folder."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from rarefy.calibration.batches import as_batches
from rarefy.core.errors import DTypeError, FileError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.site import find_sites
from rarefy.formats.shards import open_shards
from rarefy.pruning import OneShot, PruneReport
from rarefy.pruning.fit import fit_patterns
from rarefy.pruning.job import Job, Progress
from rarefy.pruning.resolve import name_of
from rarefy.pruning.work import Work
from rarefy.recipes.folder_asked import Asked
from rarefy.recipes.folder_job import job_words
from rarefy.recipes.folder_report import FolderReport
from rarefy.recipes.folder_run import Run
from rarefy.recipes.folder_target import finished, open_target
from rarefy.recipes.skeleton import skeleton

_TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prune_folder(
    source: str | Path,
    target: str | Path,
    method: str | OneShot,
    *,
    sparsity: float | None = None,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    data: Iterable[Any] | None = None,
    ignore: Sequence[str] = (),
    undivided: str = "error",
    repair: str | None = None,
    seed: int = 0,
    dtype: str = "float32",
    progress: Progress | None = None,
    **options: Any,
) -> FolderReport:
    """Prunes the Hugging Face folder `source` into the folder `target` with the memory of one block of the model.

    The arguments are those of `rarefy.prune`; the masks and weights are those that it gives the loaded model. dtype:
    what blocks compute in ("float32", "float64", "bfloat16", "float16"); solvers work in float32 or better, and weights
    are stored in the types of the source. allocation: one that needs only the shapes ("uniform", "er", "erk", Given).

    `target` must be empty or hold what an interrupted call with the same arguments left: it is then gone on with, after
    a kill at any moment, to the result that an uninterrupted call gives. It gets shards of the same names, sizes and
    layout, config, tokenizer and other companions, and `rarefy-prune.json` with the report. While it runs, the hidden
    states of all tokens (4 bytes x tokens x width, twice) lie in `target` too.

    Methods that look at the whole model at once, and models whose blocks do not form a chain, are refused.
    Raises what `rarefy.prune` raises, and FileError for a folder that cannot be read or written.
    """
    asked = Asked.of(method, sparsity, pattern, allocation, repair, options)
    source, target = _folders(Path(source), Path(target))
    batches = as_batches(data, method=asked.name, needed=asked.walks)
    if dtype not in _TYPES:
        raise DTypeError(f"dtype: {dtype!r} is not a type to compute in; choose one of {sorted(_TYPES)}")
    shards = open_shards(source)
    words = job_words(shards, batches, asked=asked, ignore=list(ignore), undivided=undivided, seed=seed, dtype=dtype)
    if (known := finished(target, words)) is not None:
        return FolderReport.from_dict(known, target)
    bare = skeleton(source, shards, _TYPES[dtype])
    sites, ignored = find_sites(bare.model, ignore)
    patterns, misfits = fit_patterns(sites, asked.pattern, undivided, look=False)
    sites = [site for site in sites if site.name in patterns]
    densities = asked.densities(sites)
    with open_target(target, shards, words) as into:
        into.copy_shards()
        work = Work(Job(bare.model, sites, patterns, batches, None, seed, asked.one_shot, progress, asked.match))
        Run(bare, into, work, _TYPES[dtype]).everything(densities, asked.walks)
        reports = tuple(work.reports.values())
        skipped = dict.fromkeys(ignored, "ignored as asked") | misfits
        journal = into.journal
        said = PruneReport(asked.name, name_of(asked.pattern), name_of(asked.spread), reports, skipped, journal.seconds)
        size = sum(place.size for place in shards.places.values())
        report = FolderReport(target, said, bare.parameters, size, journal.peak_rss, journal.runs)
        into.finish({"job": words, **report.to_dict()})
    return report


def _folders(source: Path, target: Path) -> tuple[Path, Path]:
    """Both, checked to be apart from each other."""
    a, b = source.resolve(), target.resolve()
    if a == b or a in b.parents or b in a.parents:
        raise FileError(f"{target}: is the source folder, or one lies in the other; choose another folder to write to")
    if target.exists() and not target.is_dir():
        raise FileError(f"{target}: is a file; choose a folder to write to")
    return source, target
