"""Gradients as evidence: one backward pass a batch over the dense model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import Site


def _as_matrix(site: Site, grad: Tensor) -> Tensor:
    return (grad.t() if site.transposed else grad.reshape(site.shape)).float()


def collect_gradients(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    loss: Callable[[nn.Module, Batch], Tensor] | None,
    needs: frozenset[Need],
) -> dict[str, dict[Need, Tensor]]:
    """Mean gradient and mean squared gradient of each site over the batches, `(out, in)`.

    The squares are of batch gradients: give batches of one sample for the empirical Fisher diagonal.
    """
    wanted = [need for need in needs if need.wants_loss]
    if not wanted:
        return {site.name: {} for site in sites}
    if loss is None:
        raise DataError(
            f"loss: {', '.join(n.name for n in wanted)} take a backward pass; "
            "give loss=, a function (model, batch) -> scalar"
        )
    weights = [site.parameter for site in sites]
    sums = {site.name: {need: torch.zeros(site.shape) for need in wanted} for site in sites}
    for i, batch in enumerate(batches):
        value = loss(model, batch)
        if value.dim() != 0 or not value.isfinite():
            raise DataError(f"data[{i}]: loss gave {value!r}; it has to be one finite number")
        grads = torch.autograd.grad(value, weights, allow_unused=True)
        for site, grad in zip(sites, grads, strict=True):
            if grad is None:
                raise DataError(f"{site.name}: the loss of data[{i}] does not depend on this layer; use ignore=")
            matrix = _as_matrix(site, grad) / len(batches)
            if Need.GRADIENT in wanted:
                sums[site.name][Need.GRADIENT] += matrix
            if Need.SQUARED_GRADIENT in wanted:
                sums[site.name][Need.SQUARED_GRADIENT] += matrix.square() * len(batches)
    return sums
