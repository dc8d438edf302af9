"""Evidence that takes the whole model: gradients, curvature, flow; collected before any layer is touched."""

from collections.abc import Sequence

from torch import Tensor, nn

from rarefy.calibration.batches import Batch
from rarefy.calibration.fisher import fisher_diagonal, per_sample_gradients
from rarefy.calibration.flow import synaptic_flow
from rarefy.calibration.gradients import Loss, collect_gradients, require_finite, require_loss
from rarefy.calibration.hessian_diagonal import hessian_diagonal
from rarefy.calibration.hessian_gradient import hessian_gradient
from rarefy.calibration.zeroth_order import zeroth_order
from rarefy.core.evidence import Need
from rarefy.core.site import Site

_UNCHECKED = frozenset({Need.HESSIAN_GRADIENT, Need.HESSIAN_DIAGONAL})  # by what collects them


def collect_whole(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    loss: Loss | None,
    needs: frozenset[Need],
    seed: int = 0,
) -> dict[str, dict[Need, Tensor]]:
    """{site: {need: value}} for the needs that are of the model; the model is left as it was."""
    require_loss(loss, needs)
    found = collect_gradients(model, sites, batches, loss, needs)
    parts: dict[Need, dict[str, Tensor]] = {}
    if Need.HESSIAN_GRADIENT in needs and loss is not None:
        parts[Need.HESSIAN_GRADIENT] = hessian_gradient(model, sites, batches, loss)
    if Need.ZEROTH_ORDER in needs and loss is not None:
        parts[Need.ZEROTH_ORDER] = zeroth_order(model, sites, batches, loss, seed=seed)
    if Need.PER_SAMPLE_GRADIENT in needs and loss is not None:
        parts[Need.PER_SAMPLE_GRADIENT] = per_sample_gradients(model, sites, batches, loss)
    if Need.FISHER_DIAGONAL in needs and loss is not None:
        parts[Need.FISHER_DIAGONAL] = fisher_diagonal(model, sites, batches, loss)
    if Need.HESSIAN_DIAGONAL in needs and loss is not None:
        parts[Need.HESSIAN_DIAGONAL] = hessian_diagonal(model, sites, batches, loss, seed)
    if Need.SYNAPTIC_FLOW in needs:
        parts[Need.SYNAPTIC_FLOW] = synaptic_flow(model, sites, batches[0], loss)
    for need, by_site in parts.items():
        for site in sites:
            if need in _UNCHECKED:
                require_finite(site, by_site[site.name], f"the gradient behind {need.name}")
            found[site.name][need] = by_site[site.name]
    return found
