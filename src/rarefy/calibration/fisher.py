"""The empirical Fisher information as evidence: gradients of single samples, or their mean squares only."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch
from rarefy.calibration.gradients import Loss, require_finite
from rarefy.calibration.samples import sample_count, sample_gradients
from rarefy.core.site import Site


def per_sample_gradients(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], loss: Loss
) -> dict[str, Tensor]:
    """{site: dL_i/dW (out, n, samples)} in float32, the gradients of one weight side by side.

    Holds 4 bytes times weights times samples (MLPNet with 32,360 weights and 1,000 samples: 129 MB), and 256 MB of
    gradients on their way there.
    """
    count = sum(sample_count(batch, i) for i, batch in enumerate(batches))
    found = {site.name: torch.empty(*site.shape, count) for site in sites}
    done = 0
    for grads in sample_gradients(model, sites, batches, loss):
        for site, part in zip(sites, grads, strict=True):
            require_finite(site, part, "the gradient of a single sample")
            found[site.name][:, :, done : done + len(part)] = part.permute(1, 2, 0)
        done += len(grads[0])
    return found


def fisher_diagonal(model: nn.Module, sites: Sequence[Site], batches: Sequence[Batch], loss: Loss) -> dict[str, Tensor]:
    """{site: mean over samples of (dL_i/dW)^2 (out, n)}, summed as the gradients come, so none of them is kept."""
    sums = {site.name: torch.zeros(site.shape, dtype=torch.float64) for site in sites}
    done = 0
    for grads in sample_gradients(model, sites, batches, loss):
        for site, part in zip(sites, grads, strict=True):
            require_finite(site, part, "the gradient of a single sample")
            sums[site.name] += part.square().sum(0)
        done += len(grads[0])
    found = {name: (total / max(1, done)).float() for name, total in sums.items()}
    for site in sites:
        require_finite(site, found[site.name], "the mean square of its gradients")
    return found
