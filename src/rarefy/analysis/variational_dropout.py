"""Variational dropout: every weight learns its own noise, and those that are mostly noise go."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rarefy.analysis.held_zeros import Loss
from rarefy.core.errors import SparsityError
from rarefy.core.site import find_sites
from rarefy.core.topk import exact_count, keep_top

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695


def divergence(log_alpha: Tensor) -> Tensor:
    """KL of a weight's noise from the log-uniform prior, -k1 sigmoid(k2 + k3 ln a) + ln(1 + 1/a)/2 + k1, elementwise.

    Falls towards 0 as the noise ratio a grows. Source: Molchanov et al. 2017, arXiv:1701.05369, eq. 14.
    """
    spread = 0.5 * nn.functional.softplus(-log_alpha)
    return -_K1 * torch.sigmoid(_K2 + _K3 * log_alpha) + spread + _K1


def train_noise(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Loss,
    *,
    epochs: int,
    rate: float = 1e-3,
    samples: int,
    warm: int = 0,
    start: float = -8.0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Trains weights theta and their noise, w = theta (1 + sqrt(a) eps), in place: {layer: ln a, (out, in)}.

    loss: the mean over a batch; samples: of the whole training set, by which the divergence is divided; it sets in
    evenly over the first `warm` epochs. start: ln of the variance at first.
    Source: Molchanov et al. 2017, arXiv:1701.05369, sections 3-4.
    Differs: noise is drawn once a batch, not once a sample (no local reparametrisation), so that any layer can be
    noisy; variance and not ratio is the parameter, as in its section 4.2.
    """
    sites = find_sites(model)[0]
    names = {id(p): name for name, p in model.named_parameters()}
    keys = [names[id(site.parameter)] for site in sites]
    spread = [nn.Parameter(torch.full_like(site.parameter, start)) for site in sites]
    optimizer = torch.optim.Adam([*model.parameters(), *spread], lr=rate)
    generator = torch.Generator().manual_seed(seed)

    for epoch in range(epochs):
        share = min(1.0, (epoch + 1) / (warm + 1))
        for index in torch.randperm(len(batches), generator=generator).tolist():
            noisy = {}
            for key, site, variance in zip(keys, sites, spread, strict=True):
                noise = torch.randn(variance.shape, generator=generator)
                noisy[key] = site.parameter + (0.5 * variance).exp() * noise
            optimizer.zero_grad()
            ratios = [_log_alpha(site.parameter, v) for site, v in zip(sites, spread, strict=True)]
            prior = torch.stack([divergence(ratio).sum() for ratio in ratios]).sum()
            value = loss(_Noisy(model, noisy), batches[index]) + share * prior / samples
            value.backward()
            optimizer.step()
    return {
        site.name: site.as_matrix(_log_alpha(site.parameter, variance).detach()).clone()
        for site, variance in zip(sites, spread, strict=True)
    }


def drop_noise(
    model: nn.Module, log_alpha: dict[str, Tensor], *, threshold: float = 3.0, sparsity: float | None = None
) -> None:
    """Zeroes, in place, weights whose ln a is above the threshold, or the noisiest of all layers up to a sparsity."""
    if sparsity is not None and not 0 <= sparsity < 1:
        raise SparsityError(f"drop_noise: sparsity={sparsity} is not in [0, 1)")
    sites = find_sites(model)[0]
    if sparsity is None:
        masks = [log_alpha[site.name] <= threshold for site in sites]
    else:
        ranked = torch.cat([log_alpha[site.name].reshape(-1) for site in sites])
        kept = keep_top(-ranked[None], exact_count(len(ranked), 1.0 - sparsity))[0]
        masks = list(kept.split([log_alpha[site.name].numel() for site in sites]))
    for site, mask in zip(sites, masks, strict=True):
        site.write(site.read(), mask.reshape(site.shape))


def _log_alpha(weight: Tensor, variance: Tensor) -> Tensor:
    return (variance - (weight.square() + 1e-12).log()).clamp(-8.0 * math.log(10), 8.0 * math.log(10))


class _Noisy(nn.Module):
    """The model with some of its weights exchanged for a call."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, *given: Any, **named: Any) -> Any:
        return functional_call(self.model, self.weights, given, named)
