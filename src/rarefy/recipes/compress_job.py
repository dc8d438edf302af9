"""What is asked of a compression, and what identifies it: so that it is only ever gone on with as it was begun."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError
from rarefy.core.registry import lookup
from rarefy.engine.rivals import find
from rarefy.ops import build
from rarefy.patterns.parse import parse_pattern
from rarefy.pruning.resolve import resolve_method
from rarefy.recipes.comparison.digest import code_digest, digest
from rarefy.recipes.environment import version
from rarefy.recipes.task import Task

_OF_THE_TIMING = ("against", "rounds")  # do not decide what the model will be


@dataclass(frozen=True)
class Job:
    """What to do with a model. recover: distillation steps, at most `recover_seconds` of them; options: of the method;
    against: rivals to time beside it; target_speedup: at the first example's shape, instead of a sparsity."""

    method: str = "sparsegpt"
    sparsity: float | None = 0.7
    pattern: str | None = None
    allocation: str | None = None
    ignore: tuple[str, ...] = ()
    recover: int = 0
    recover_seconds: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    against: tuple[str, ...] = ("torch",)
    rounds: int = 7
    target_speedup: float | None = None

    def check(self) -> None:
        """Names and ranges, before anything slow happens."""
        resolve_method(self.method, dict(self.options))
        find(self.against)
        if self.pattern is not None:
            parse_pattern(self.pattern)
        if self.allocation is not None:
            lookup("allocation", self.allocation)
        if self.sparsity is not None:
            density_of(self.sparsity)
        if self.target_speedup is not None and self.sparsity is not None:
            raise SparsityError("--target-speedup and --sparsity exclude each other; give the one that matters")
        if self.recover < 0:
            raise SparsityError(f"--recover: {self.recover} steps; give 0 or more")


def job_words(task: Task, job: Job) -> dict[str, str]:
    """{what: its value} of all that the saved model and its quality depend on; large things by their sums.

    Reads every weight and batch once.
    """
    asked = {name: _word(value) for name, value in asdict(job).items() if name not in _OF_THE_TIMING}
    return {"model": _model(task.model), "data": _data(task), "rarefy": _code(), **asked}


def _word(value: object) -> str:
    """Plain data as they are; of anything else a sum over its content."""
    try:
        return json.dumps(value, sort_keys=True)
    except TypeError:
        return f"{type(value).__name__} {digest(value)[:16]}"


def _model(model: nn.Module) -> str:
    return f"{type(model).__name__} {digest(model)[:16]}"


def _data(task: Task) -> str:
    """The unseen inputs stand for `vectors`, which holds the model and its tokenizer; where there are none, itself."""
    pooling = None if task.text is None else (task.text.pooling, task.text.max_tokens)
    unseen = (pooling, task.perplexity, task.held or task.unseen or task.vectors)
    seen = (task.calibration, task.recovery, task.examples, task.evaluation)
    return f"{len(task.recovery)} batches, {digest((seen, unseen))[:16]}"


def _code() -> str:
    """Its version, and a sum over its source, torch's version and the native module."""
    sha = hashlib.sha256(f"{code_digest(('',))} {build()}".encode())
    return f"{version('rarefy')} {sha.hexdigest()[:16]}"
