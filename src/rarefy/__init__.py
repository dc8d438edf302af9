"""rarefy makes neural networks sparse and makes the sparsity pay.

The names below are imported when they are first used: `import rarefy` and the command line start without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarefy.engine import benchmark as benchmark
    from rarefy.engine import compile as compile
    from rarefy.recipes.measure import prune as prune
    from rarefy.recipes.store import load as load
    from rarefy.recipes.store import save as save

_PLACES = {
    "benchmark": "rarefy.engine",
    "compile": "rarefy.engine",
    "load": "rarefy.recipes.store",
    "prune": "rarefy.recipes.measure",
    "save": "rarefy.recipes.store",
}
__all__ = ["benchmark", "compile", "load", "prune", "save"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'rarefy' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
