"""The diagonal of the Hessian of the loss, estimated by products with random signs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rarefy.calibration.batches import Batch, evaluation
from rarefy.calibration.gradients import Loss, loss_of, of_the_loss, trainable
from rarefy.core.errors import DataError
from rarefy.core.site import Site

_PROBES = 8


def hessian_diagonal(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], loss: Loss, seed: int = 0, probes: int = _PROBES
) -> dict[str, Tensor]:
    """{site: mean over batches and probes z of z * (H z) (out, n)}, entries of z +1 or -1 by `seed`.

    Its expectation is the diagonal of H. Source: Bekas et al. 2007, doi:10.1016/j.apnum.2007.01.003, eq. 3.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {site.name: torch.zeros(site.shape) for site in sites}
    weights = [site.parameter for site in sites]
    with evaluation(model), trainable(weights), sdpa_kernel(SDPBackend.MATH):  # the fused ones have one backward only
        for i, batch in enumerate(batches):
            value = loss_of(model, batch, i, loss)
            found = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
            grads = [of_the_loss(site, grad, i) for site, grad in zip(sites, found, strict=True)]
            if not any(g.requires_grad for g in grads):
                raise DataError(f"data[{i}]: the gradient of the loss is constant, so there is no Hessian to speak of")
            for _ in range(probes):
                signs = [torch.randint(0, 2, w.shape, generator=generator).to(w.dtype) * 2 - 1 for w in weights]
                along = torch.stack([(g * z).sum() for g, z in zip(grads, signs, strict=True)]).sum()
                products = torch.autograd.grad(along, weights, retain_graph=True, allow_unused=True)
                for site, sign, product in zip(sites, signs, products, strict=True):
                    if product is not None:
                        sums[site.name] += site.as_matrix(sign * product).float() / (len(batches) * probes)
    return sums
