"""How many of its entries each weight is to keep."""

from collections.abc import Mapping, Sequence
from typing import Any

from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.core.protocols import Pattern
from rarefy.core.registry import lookup
from rarefy.core.site import Site
from rarefy.patterns.fixed import fixed_density
from rarefy.training.method import SparseMethod
from rarefy.training.starts import GivenStart


def saved_densities(state: Mapping[str, Any] | None) -> dict[str, float]:
    """Of the weights that a saved trainer held, by name; `checkpoint.load` is who checks the state."""
    identity = state.get("identity") if isinstance(state, Mapping) else None
    weights = identity.get("weights") if isinstance(identity, dict) else None
    if not isinstance(weights, dict):
        return {}
    return {name: held[-1] for name, held in weights.items() if isinstance(held, list) and isinstance(held[-1], float)}


def spread(
    weights: Sequence[Site],
    sparsity: float | None,
    pattern: Pattern,
    allocation: object,
    method: SparseMethod,
    saved: Mapping[str, float],
) -> tuple[float, dict[str, float]]:
    """Of all weights together and of each: by the allocation, or, where the zeros are given, by the saved run (else set
    at the start)."""
    if not isinstance(method.start, GivenStart):
        density = _density(sparsity, pattern)
        return density, _allocate(weights, density, pattern, allocation, method)
    density = 1.0 if sparsity is None else _density(sparsity, pattern)
    return density, {weight.name: saved.get(weight.name, density) for weight in weights}


def _density(sparsity: float | None, pattern: Pattern) -> float:
    fixed = fixed_density(pattern)
    if sparsity is None:
        if fixed is None:
            raise SparsityError(f"sparsity: missing; {pattern} needs the fraction of zeros, e.g. sparsity=0.9")
        return fixed
    density = density_of(sparsity)
    if fixed is not None and abs(density - fixed) > 1e-6:
        raise SparsityError(
            f"sparsity: {sparsity} contradicts {pattern}, whose sparsity is {1 - fixed:g}; leave it out"
        )
    return density


def _allocate(
    weights: Sequence[Site], density: float, pattern: Pattern, allocation: object, method: SparseMethod
) -> dict[str, float]:
    if fixed_density(pattern) is not None and allocation is None:
        allocation = Uniform()
    chosen: Any = method.allocation if allocation is None else allocation
    if isinstance(chosen, str):
        chosen = lookup("allocation", chosen).factory()
    if not callable(chosen) or not hasattr(chosen, "needs"):
        raise UnknownNameError(f"allocation: {allocation!r} is neither a name nor an Allocation")
    if fixed_density(pattern) is not None and not isinstance(chosen, Uniform):
        raise SparsityError(f"allocation: {pattern} has one density, {type(chosen).__name__} cannot spread it")
    if chosen.needs:
        raise SparsityError(
            f"allocation: {type(chosen).__name__} looks at data, which a first mask has not seen; prune with it first "
            'and train with method "static" (start="given"), or take uniform, er or erk'
        )
    found: dict[str, float] = chosen(weights, density, {})
    return found
