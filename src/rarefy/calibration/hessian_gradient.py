"""The Hessian of the loss times its gradient, by two backward passes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rarefy.calibration.batches import Batch, evaluation
from rarefy.calibration.gradients import Loss, collect_gradients, loss_of, of_the_loss, trainable
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import Site


def hessian_gradient(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], loss: Loss
) -> dict[str, Tensor]:
    """{site: H g (out, n)}, H and g the means over the batches, among the weights of the sites only.

    H g = d/dW (g(W)^T c) at c = g held fixed: first the gradient over all batches, then a backward pass through the
    gradient of each. Source: Wang et al. 2020 (GraSP), arXiv:2002.07376, algorithm 2.
    """
    first = collect_gradients(model, sites, batches, loss, frozenset({Need.GRADIENT}))
    fixed = [_as_parameter(site, first[site.name][Need.GRADIENT]) for site in sites]
    sums = {site.name: torch.zeros(site.shape) for site in sites}
    weights = [site.parameter for site in sites]
    with evaluation(model), trainable(weights), sdpa_kernel(SDPBackend.MATH):  # the fused ones have one backward only
        for i, batch in enumerate(batches):
            value = loss_of(model, batch, i, loss)
            found = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
            grads = [of_the_loss(site, grad, i) for site, grad in zip(sites, found, strict=True)]
            along = torch.stack([(g.float() * c).sum() for g, c in zip(grads, fixed, strict=True)]).sum()
            if not along.requires_grad:
                raise DataError(f"data[{i}]: the gradient of the loss is constant, so there is no Hessian to speak of")
            seconds = torch.autograd.grad(along, weights, allow_unused=True)
            for site, second in zip(sites, seconds, strict=True):
                if second is not None:
                    sums[site.name] += site.as_matrix(second).float() / len(batches)
    return sums


def _as_parameter(site: Site, matrix: Tensor) -> Tensor:
    return matrix.t() if site.transposed else matrix.reshape(site.parameter.shape)
