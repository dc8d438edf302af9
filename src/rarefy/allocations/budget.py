"""Spreading a budget in proportion to weights of importance, no site above 1, the total exact."""

from collections.abc import Mapping

from rarefy.core.errors import SparsityError


def spread(sizes: Mapping[str, int], shares: Mapping[str, float], density: float) -> dict[str, float]:
    """Densities `min(1, c * share)` with `sum(size * density) = density * sum(size)`.

    sizes: weights a site; shares: non-negative relative densities. Sites that would pass 1 are kept dense and
    the rest of the budget is spread again over the others (the loop of the RigL paper, appendix B).
    """
    full: set[str] = set()
    budget = density * sum(sizes.values())
    while len(full) < len(sizes):
        free = [name for name in sizes if name not in full]
        left = budget - sum(sizes[name] for name in full)
        mass = sum(sizes[name] * shares[name] for name in free)
        if mass <= 0:
            if left > 1e-9 * max(1.0, budget):
                raise SparsityError(
                    f"spread: the sites {free} have no share, but {left:.0f} weights are left to keep; "
                    "give every site a positive share or ask for more sparsity"
                )
            return {name: 1.0 if name in full else 0.0 for name in sizes}
        scale = left / mass
        over = {name for name in free if scale * shares[name] > 1.0}
        if not over:
            return {name: 1.0 if name in full else scale * shares[name] for name in sizes}
        full |= over
    return dict.fromkeys(sizes, 1.0)


def spread_above(
    sizes: Mapping[str, int], shares: Mapping[str, float], density: float, least: float
) -> dict[str, float]:
    """Densities of at least `least`, what the budget has beyond that in proportion to the shares, none above 1."""
    if least >= 1.0:
        return dict.fromkeys(sizes, 1.0)
    spare = max(0.0, (density - least) / (1.0 - least))  # of the room between least and 1
    if sum(sizes[name] for name, share in shares.items() if share > 0) < spare * sum(sizes.values()):
        shares = {name: max(share, 1e-12 * max(shares.values())) for name, share in shares.items()}
    return {name: least + (1.0 - least) * part for name, part in spread(sizes, shares, spare).items()}
