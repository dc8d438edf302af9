"""What each layer's sparsity costs the whole model: the method's own layer errors, weighed by how far they reach."""

from collections.abc import Callable, Mapping, Sequence
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
_BATCHES = 2  # that the reach is measured on

Loss = Callable[[nn.Module, Any], Tensor]


class Losses:
    """`losses(site, density)`: the relative squared error of the model's output that a site's sparsity brings.

    A layer's own error at a density (`pruning.sensitivity`) times its reach: the error of the model's output over
    the layer's own when that layer alone is solved at one density. Without data the reach is 1 everywhere.
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
        reference = min(densities, key=lambda d: abs(d - _REFERENCE))
        solved: dict[str, tuple[Weight, Tensor]] = {}

        def keep(site: Site, density: float, weight: Weight, solution: Solution) -> None:
            if density == reference and batches:
                solved[site.name] = solution.weight, solution.mask

        self.errors = layer_errors(model, one_shot, pattern, sites, batches, densities, loss=loss, seed=seed, seen=keep)
        reached = _reached(model, sites, solved, batches[:_BATCHES], loss) if solved else {}
        own = {name: max(found[reference], 1e-12) for name, found in self.errors.items()}
        self.reach = {name: reached[name] / own[name] if name in reached else 1.0 for name in self.errors}

    def __call__(self, site: str, density: float) -> float:
        return self.reach[site] * interpolated(self.errors[site], density)


def _reached(
    model: nn.Module,
    sites: Sequence[Site],
    solved: Mapping[str, tuple[Weight, Tensor]],
    batches: Sequence[Any],
    loss: Loss | None,
) -> dict[str, float]:
    """Relative squared error of the model's output when one site alone holds its solution, by site."""
    with inference(model):
        before = _outputs(model, batches, loss)
        scale = sum(float(y.square().sum()) for y in before) or 1.0
        found = {}
        for site in sites:
            with _replaced(site, *solved[site.name]):
                after = _outputs(model, batches, loss)
            change = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True))
            found[site.name] = change / scale
    return found


@contextmanager
def _replaced(site: Site, weight: Weight, mask: Tensor) -> Any:
    """The site with another weight, the old one put back after."""
    before = site.parameter.detach().clone()
    try:
        site.write(weight, mask)
        yield
    finally:
        with torch.no_grad():
            site.parameter.copy_(before)


def _outputs(model: nn.Module, batches: Sequence[Any], loss: Loss | None) -> list[Tensor]:
    """The first output a batch, in double precision; padding counts for nothing."""
    found = []
    for i, batch in enumerate(batches):
        y, real = first_tensor(runner(loss)(model, batch, i)).double(), token_mask(batch)
        found.append(y[real] if real is not None and y.shape[: real.dim()] == real.shape else y)
    return found
