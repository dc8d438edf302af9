"""Any method of sparse training inside a random sparse net."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rarefy.core.errors import UnknownNameError
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.registry import lookup, method
from rarefy.training.method import SparseMethod
from rarefy.training.source_mask import DrawSource, SourceStart, source_density


@method(
    "random-pruning-start-sparse", source="Gadhikar et al. 2023, arXiv:2210.02412, section 3", protocols=("pattern",)
)
def random_source(
    *,
    inner: str | SparseMethod = "gmp-zhu-gupta",
    source: float = 0.5,
    ratios: str = "uniform",
    options: Mapping[str, Any] | None = None,
    pattern: Pattern | None = None,
    allocation: Allocation | None = None,
) -> SparseMethod:
    """Draws a random mask once, and lets another method train and search inside it only.

    inner: the other method, by name with its `options`, or as an object; "edge-popup" finds strong tickets. source: the
    sparsity of the random net; ratios: how it is spread over the layers: "uniform" | "erk" | "balanced" (equally many
    weights in every layer) | "pyramidal" (density p^l in layer l). The asked sparsity is that of the end, over all
    weights. What the method inside calls dense is the random net.
    Differs: each layer's mask has exactly its count; in the paper each weight is drawn for itself.
    """
    density = source_density(source, ratios)
    found = inner if isinstance(inner, SparseMethod) else lookup("method", inner).factory(**(options or {}))
    if not isinstance(found, SparseMethod):
        raise UnknownNameError(f"inner: {inner!r} does not train; name a method of sparse training")
    return replace(
        found,
        start=SourceStart(found.start),
        prepare=DrawSource(density, ratios, found.prepare),
        pattern=pattern or found.pattern,
        allocation=allocation or found.allocation,
    )
