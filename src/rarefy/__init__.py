"""rarefy makes neural networks sparse and makes the sparsity pay: one verb a job, a report from every call.

The names are loaded when they are first used, so that `import rarefy` and `rarefy --help` cost no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarefy.activations.sparsify import sparsify_activations
    from rarefy.analysis.activation_stats import activation_stats
    from rarefy.core.errors import RarefyError
    from rarefy.core.grid import QuantizeSpec
    from rarefy.core.selection import Selection
    from rarefy.core.sparse import SparseTensor
    from rarefy.core.split_attention import join_attention, split_attention
    from rarefy.engine.benchmark import benchmark
    from rarefy.engine.compile import compile
    from rarefy.finetuning.distill import distill
    from rarefy.recipes.comparison.compare import compare
    from rarefy.recipes.hf_quantizer import enable_transformers
    from rarefy.recipes.measure import prune
    from rarefy.recipes.prune_folder import prune_folder
    from rarefy.recipes.semi_structured import to_semi_structured
    from rarefy.recipes.sentence import sentence_transformer
    from rarefy.recipes.store import load, save
    from rarefy.recipes.train import sparse_training
    from rarefy.recipes.train_loops import lightning_callback, transformers_callback

    __version__: str

_HOME = {
    "QuantizeSpec": "rarefy.core.grid",
    "RarefyError": "rarefy.core.errors",
    "Selection": "rarefy.core.selection",
    "SparseTensor": "rarefy.core.sparse",
    "activation_stats": "rarefy.analysis.activation_stats",
    "benchmark": "rarefy.engine.benchmark",
    "compare": "rarefy.recipes.comparison.compare",
    "compile": "rarefy.engine.compile",
    "distill": "rarefy.finetuning.distill",
    "enable_transformers": "rarefy.recipes.hf_quantizer",
    "join_attention": "rarefy.core.split_attention",
    "lightning_callback": "rarefy.recipes.train_loops",
    "load": "rarefy.recipes.store",
    "prune": "rarefy.recipes.measure",
    "prune_folder": "rarefy.recipes.prune_folder",
    "save": "rarefy.recipes.store",
    "sentence_transformer": "rarefy.recipes.sentence",
    "sparse_training": "rarefy.recipes.train",
    "sparsify_activations": "rarefy.activations.sparsify",
    "split_attention": "rarefy.core.split_attention",
    "to_semi_structured": "rarefy.recipes.semi_structured",
    "transformers_callback": "rarefy.recipes.train_loops",
}

__all__ = [
    "QuantizeSpec",
    "RarefyError",
    "Selection",
    "SparseTensor",
    "activation_stats",
    "benchmark",
    "compare",
    "compile",
    "distill",
    "enable_transformers",
    "join_attention",
    "lightning_callback",
    "load",
    "prune",
    "prune_folder",
    "save",
    "sentence_transformer",
    "sparse_training",
    "sparsify_activations",
    "split_attention",
    "to_semi_structured",
    "transformers_callback",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'rarefy' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("rarefy")
    except PackageNotFoundError:
        return "0+unknown (a source tree that is not installed)"
