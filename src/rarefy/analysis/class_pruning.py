"""Magnitude pruning in rounds with retraining: one threshold for the model (class-blind), or one for each layer."""

from collections.abc import Callable, Sequence

from torch import nn

from rarefy.allocations.ranked import Global
from rarefy.allocations.uniform import Uniform
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Allocation
from rarefy.core.site import find_sites
from rarefy.patterns.unstructured import Layerwise
from rarefy.scores.magnitude import Magnitude

SPREADS: dict[str, Allocation] = {"blind": Global(Magnitude()), "uniform": Uniform()}


def prune_in_rounds(
    model: nn.Module,
    retrain: Callable[[nn.Module], None],
    *,
    sparsity: float,
    spread: str = "blind",
    rounds: int = 5,
    ignore: Sequence[str] = (),
) -> None:
    """Prunes the smallest weights by equal shares a round, in place, and retrains after each.

    spread: "blind" (one ranking of all weights) | "uniform" (the same share of every layer). retrain: has to keep the
    zeros, as `held_zeros.fit` does. Source: See et al. 2016, arXiv:1606.09274, section 3; Stier et al. 2021, section 3.
    """
    if spread not in SPREADS:
        raise unknown_name("spread", spread, SPREADS)
    if rounds < 1:
        raise SparsityError(f"rounds: {rounds} is not a number of rounds; give at least 1")
    density, sites = density_of(sparsity), find_sites(model, ignore)[0]
    for index in range(1, rounds + 1):
        evidence = {site.name: Evidence(site.name) for site in sites}
        densities = SPREADS[spread](sites, density ** (index / rounds), evidence)
        for site in sites:
            weight = site.read()
            score = weight.abs().masked_fill(weight == 0, -1.0)
            site.write(weight, Layerwise().select(score, densities[site.name]))
        retrain(model)
