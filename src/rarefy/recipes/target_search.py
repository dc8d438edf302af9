"""Which layers should take the zeros: knapsacks with other weights on the layers, judged by the model's own error."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from rarefy.allocations.knapsack import Option, knapsack
from rarefy.core.site import Site
from rarefy.recipes.target_losses import Losses

_STEPS = 60  # mutations tried at the first budget
_CHANGED = 0.15  # share of the layers whose weight a mutation changes
_FACTOR = 0.7  # standard deviation of the logarithm of a change

Densities = dict[str, float]
Allocate = Callable[[float], Densities | None]  # densities whose layers take at most so many ms; None: impossible


@dataclass
class LeastLoss:
    """densities = the knapsack of c_l e_l(d) within the budget, with the layer weights c that the model likes best.

    options: (density, milliseconds) of each site; rivals: other ways to spend a budget, which are taken where the
    model's error is less with them. The weights are searched at the first budget and kept for those after it.
    Source: Frantar and Alistarh 2022 (SPDY), arXiv:2201.13096, sections 3.1 and 3.2. Differs: the errors are the
    method's own, not a prior; the search begins at several weightings (none, the measured reach of each layer, its
    square root) and mutates the best, instead of random starts.
    """

    model: nn.Module
    sites: Sequence[Site]
    options: Mapping[str, Sequence[tuple[float, float]]]
    losses: Losses
    rivals: Sequence[Allocate] = ()
    seed: int = 0
    steps: int = _STEPS
    _choice: Allocate | None = field(default=None, repr=False)

    def __call__(self, budget: float) -> Densities | None:
        if self.plain(budget) is None:
            return None
        if self._choice is None:
            self._choice = self._search(budget)
        return self._choice(budget)

    def plain(self, budget: float) -> Densities | None:
        """The knapsack with no weights on the layers: quick."""
        return self._weighted(dict.fromkeys(self.options, 1.0))(budget)

    def _weighted(self, weights: Mapping[str, float]) -> Allocate:
        """The knapsack with these weights on the layers."""
        table = {
            name: [Option(d, ms, weights[name] * self.losses.of(name, d)) for d, ms in options]
            for name, options in self.options.items()
        }

        def allocate(budget: float) -> Densities | None:
            found = knapsack(table, budget)
            return None if found is None else {name: option.density for name, option in found.items()}

        return allocate

    def _search(self, budget: float) -> Allocate:
        starts = [{name: r**power for name, r in self.losses.reach.items()} for power in (0.0, 0.5, 1.0)]
        if not self.losses.solved or not any(self.losses.solved.values()):
            return self._weighted(starts[0])  # no data to judge by
        judged = [(self._error(self._weighted(w), budget), w) for w in starts]
        error, weights = min(judged, key=lambda pair: pair[0])
        error, weights = self._mutated(error, weights, budget)
        others = [(self._error(rival, budget), rival) for rival in self.rivals]
        return min([(error, self._weighted(weights)), *others], key=lambda pair: pair[0])[1]

    def _mutated(self, error: float, weights: dict[str, float], budget: float) -> tuple[float, dict[str, float]]:
        """The weights after mutations, each kept if the model's error falls."""
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            picked = torch.rand(len(weights), generator=generator) < _CHANGED
            factors = (torch.randn(len(weights), generator=generator) * _FACTOR).exp()
            changes = torch.where(picked, factors, 1.0).tolist()
            tried = {name: w * change for (name, w), change in zip(weights.items(), changes, strict=True)}
            found = self._error(self._weighted(tried), budget)
            if found < error:
                error, weights = found, tried
        return error, weights

    def _error(self, allocate: Allocate, budget: float) -> float:
        """Of the model with the method's solutions stitched together."""
        densities = allocate(budget)
        return float("inf") if densities is None else self.losses.model_error(self.model, self.sites, densities)
