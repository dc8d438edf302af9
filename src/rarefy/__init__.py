"""rarefy makes neural networks sparse and makes the sparsity pay: one verb a job, a report from every call."""

from importlib.metadata import PackageNotFoundError, version

from rarefy.core.errors import RarefyError
from rarefy.core.selection import Selection
from rarefy.core.sparse import SparseTensor
from rarefy.engine import compile
from rarefy.engine.benchmark import benchmark
from rarefy.finetuning import distill
from rarefy.recipes.measure import prune
from rarefy.recipes.store import load, save

try:
    __version__ = version("rarefy")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "RarefyError",
    "Selection",
    "SparseTensor",
    "benchmark",
    "compile",
    "distill",
    "load",
    "prune",
    "save",
]
