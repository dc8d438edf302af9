"""What sparsity costs: the method's own error a layer and density, and of the whole model with layers put together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import inference, runner, token_mask
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.shapes import Weight
from rarefy.core.site import Site
from rarefy.engine.rivals.outputs import first_tensor
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.sensitivity import interpolated, layer_errors

SOLVED = (0.6, 0.4, 0.25, 0.15, 0.08, 0.03)  # densities at which every layer is solved
_REFERENCE = 0.25  # the density at which a layer's reach is measured
_BATCHES = 2  # that the model's error is measured on

Loss = Callable[[nn.Module, Any], Tensor]


class Losses:
    """The errors of the method's solutions, and the model's error with any of them stitched together.

    errors: relative squared error of each layer's output by density (`pruning.sensitivity`). reach: the error of the
    model's output over the layer's own, when that layer alone is solved at one density; 1 without data. Solutions are
    kept in bfloat16: they serve to compare allocations, never as weights.
    """

    def __init__(
        self,
        model: nn.Module,
        one_shot: OneShot,
        pattern: Pattern,
        sites: Sequence[Site],
        batches: Sequence[Any],
        densities: Sequence[float] = SOLVED,
        *,
        loss: Loss | None = None,
        seed: int = 0,
    ) -> None:
        self.solved: dict[str, dict[float, Tensor]] = {site.name: {} for site in sites}

        def keep(site: Site, density: float, weight: Weight, solution: Solution) -> None:
            if batches:
                self.solved[site.name][density] = solution.weight.to(torch.bfloat16)

        self.errors = layer_errors(model, one_shot, pattern, sites, batches, densities, loss=loss, seed=seed, seen=keep)
        self._loss, self._batches = loss, [batches[i] for i in _spread_over(len(batches))]
        with inference(model):
            self._before = _outputs(model, self._batches, loss)
        reference = min(densities, key=lambda d: abs(d - _REFERENCE))
        own = {name: max(found[reference], 1e-12) for name, found in self.errors.items()}
        alone = {s.name: self.model_error(model, [s], {s.name: reference}) for s in sites} if batches else {}
        self.reach = {name: alone[name] / own[name] if batches else 1.0 for name in own}

    def of(self, site: str, density: float) -> float:
        """The layer's own error at a density."""
        return interpolated(self.errors[site], density)

    def model_error(self, model: nn.Module, sites: Sequence[Site], densities: Mapping[str, float]) -> float:
        """Relative squared error of the model's output when the sites hold their solutions at these densities.

        Between the solved densities a weight is a mixture of its neighbours'.
        """
        with inference(model), _replaced(sites, lambda s: self._stitched(s, densities[s.name])):
            after = _outputs(model, self._batches, self._loss)
        scale = sum(float(y.square().sum()) for y in self._before) or 1.0
        return sum(float((a - b).square().sum()) for a, b in zip(after, self._before, strict=True)) / scale

    def _stitched(self, site: Site, density: float) -> Tensor:
        known = {**self.solved[site.name], 1.0: site.read()}
        low = max((d for d in known if d <= density), default=min(known))
        high = min((d for d in known if d >= low and d >= density), default=low)
        share = (density - low) / (high - low) if high > low else 0.0
        return torch.lerp(known[low].float(), known[high].float(), share)


def _spread_over(count: int) -> list[int]:
    """A few batches, from early to late: batches are often sorted by length."""
    return sorted({(2 * i + 1) * count // (2 * _BATCHES) for i in range(_BATCHES)}) if count else []


@contextmanager
def _replaced(sites: Sequence[Site], weight_of: Callable[[Site], Tensor]) -> Iterator[None]:
    """The sites with other weights, the old ones put back after."""
    before = [site.parameter.detach().clone() for site in sites]
    try:
        for site in sites:
            weight = weight_of(site)
            site.write(weight, torch.ones_like(weight, dtype=torch.bool))
        yield
    finally:
        with torch.no_grad():
            for site, weight in zip(sites, before, strict=True):
                site.parameter.copy_(weight)


def _outputs(model: nn.Module, batches: Sequence[Any], loss: Loss | None) -> list[Tensor]:
    """The first output a batch, in double precision; padding counts for nothing."""
    found = []
    for i, batch in enumerate(batches):
        y, real = first_tensor(runner(loss)(model, batch, i)).double(), token_mask(batch)
        found.append(y[real] if real is not None and y.shape[: real.dim()] == real.shape else y)
    return found
