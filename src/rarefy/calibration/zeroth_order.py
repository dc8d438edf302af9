"""How much the loss depends on each layer, measured by forward passes alone."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, inference
from rarefy.calibration.gradients import Loss, loss_of
from rarefy.core.site import Site


def zeroth_order(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    loss: Loss,
    *,
    step: float = 1e-3,
    noises: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """{site: I ()}, I = mean over batches and noises of |L(W + step z) - L(W - step z)| / (2 step), z ~ N(0, 1).

    z is drawn again from its seed in place of being kept, so the memory is that of one layer, and the weight is put
    back from a copy: bit for bit. E I^2 is about |dL/dW|^2, so I grows as the gradient norm does.
    Source: Sung et al. 2023 (ECoFLaP), arXiv:2310.02998, eq. 4; seed replay: Malladi et al. 2023, arXiv:2305.17333.
    Differs: a pair of evaluations for every noise and batch, where the paper's code takes a new noise each sample.
    """
    found = {}
    with inference(model):
        for site in sites:
            parameter, before = site.parameter, site.parameter.detach().clone()
            total = 0.0
            try:
                for noise in range(noises):
                    for i, batch in enumerate(batches):
                        name = zlib.crc32(f"{seed} {site.name} {noise} {i}".encode())
                        up, down = (_moved(model, parameter, before, s, name, batch, i, loss) for s in (step, -step))
                        total += abs(up - down) / (2 * step)
            finally:
                parameter.copy_(before)
            found[site.name] = torch.tensor(total / (noises * len(batches)))
    return found


def _moved(
    model: nn.Module, parameter: Tensor, before: Tensor, step: float, seed: int, batch: Batch, index: int, loss: Loss
) -> float:
    """The loss of a batch with `step` times the noise of a seed added to the weight."""
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(seed))
    parameter.copy_(before + step * noise.to(before))
    return float(loss_of(model, batch, index, loss))
