"""From the words of the public door to objects: method, pattern, allocation, density."""

import inspect
from typing import Any

from rarefy.allocations.ranked import Global
from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.registry import entries, lookup
from rarefy.patterns.fixed import fixed_density
from rarefy.patterns.parse import parse_pattern
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.pruning.one_shot import OneShot


def resolve_method(method: object, options: dict[str, Any]) -> tuple[str, OneShot]:
    """(name, method) of a registered name (with its own options) or of a OneShot object."""
    if isinstance(method, OneShot):
        if options:
            raise UnknownNameError(f"prune: options {sorted(options)} go with a method's name, not with an object")
        return type(method.solver).__name__.lower(), method
    if not isinstance(method, str):
        raise UnknownNameError(f"method: {method!r} is neither a registered name nor a OneShot")
    factory = lookup("method", method).factory
    known = inspect.signature(factory).parameters
    for name in options:
        if name not in known:
            raise UnknownNameError(f"{method}: has no option {name!r}; it has {sorted(known)}")
    if any(p.default is inspect.Parameter.empty and p.kind is not p.VAR_KEYWORD for p in known.values()):
        raise UnknownNameError(f"method: {method!r} is not a post-training pruning method")
    made = factory(**options)
    if not isinstance(made, OneShot):
        raise UnknownNameError(f"method: {method!r} is not a post-training pruning method")
    return method, made


def resolve_pattern(pattern: object, default: Pattern) -> Pattern:
    """The pattern of a name or an object; "unstructured" keeps the method's own unstructured default."""
    if pattern is None:
        return default
    if pattern == "unstructured" and isinstance(default, Layerwise | Rowwise):
        return default
    if isinstance(pattern, str):
        return parse_pattern(pattern)
    if not isinstance(pattern, Pattern):
        raise UnknownNameError(f"pattern: {pattern!r} is neither a name nor a Pattern (select, allows, count)")
    return pattern


def resolve_spread(allocation: object, one_shot: OneShot, pattern: Pattern) -> Allocation | Search:
    """The allocation or the search over allocations of a name or an object."""
    if isinstance(allocation, Search):
        return allocation
    searches = {entry.id: entry.factory for entry in entries("search")}
    if isinstance(allocation, str) and allocation in searches:
        found: Search = searches[allocation]()
        return found
    return resolve_allocation(allocation, one_shot, pattern)


def resolve_allocation(allocation: object, one_shot: OneShot, pattern: Pattern | None = None) -> Allocation:
    """The allocation of a name or an object; `global` without a score ranks by the method's own.

    A method's own allocation gives way to a pattern that has one density only.
    """
    if allocation is None:
        fixed = pattern is not None and fixed_density(pattern) is not None
        chosen: Allocation = Uniform() if fixed else one_shot.allocation
    elif isinstance(allocation, str):
        chosen = lookup("allocation", allocation).factory()
    elif callable(allocation) and hasattr(allocation, "needs"):
        chosen = allocation
    else:
        raise UnknownNameError(f"allocation: {allocation!r} is neither a name nor an Allocation")
    if isinstance(chosen, Global) and chosen.score is None and one_shot.ranking is not None:
        return Global(one_shot.ranking)
    return chosen


def resolve_density(sparsity: float | None, pattern: Pattern, allocation: Allocation | Search) -> float:
    """The overall density; an N:M pattern fixes it, and nothing else can be spread over its layers."""
    fixed = fixed_density(pattern)
    if fixed is None:
        if sparsity is None:
            raise SparsityError(f"sparsity: missing; {pattern} needs the fraction of zeros, e.g. sparsity=0.7")
        return density_of(sparsity)
    if not isinstance(allocation, Uniform):
        raise SparsityError(f"allocation: {pattern} has one density, {type(allocation).__name__} cannot spread it")
    if sparsity is not None and abs(density_of(sparsity) - fixed) > 1e-6:
        raise SparsityError(
            f"sparsity: {sparsity} contradicts {pattern}, whose sparsity is {1 - fixed:g}; leave it out"
        )
    return fixed


def name_of(thing: object) -> str:
    """A short name for reports: `2:4`, `layerwise`, `owl`."""
    return str(thing) if "__str__" in vars(type(thing)) else type(thing).__name__.lower()
