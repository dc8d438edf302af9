"""How much there is of a weight that is a Gaussian: criteria from mu and sd."""

import math

import torch
from torch import Tensor

from rarefy.core.errors import unknown_name

CRITERIA = ("snr-abs", "mean-abs", "snr", "mean", "snr-exp", "mean-exp")


def folded(mu: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """E|w| = mu (2 Phi(mu/s) - 1) + 2 s phi(mu/s) and Var|w| = s^2 + mu^2 - E|w|^2, of w ~ N(mu, s^2); float64."""
    mu, sd = mu.double(), sd.double().clamp_min(1e-300)
    z = mu / sd
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    mean = mu * (2.0 * torch.special.ndtr(z) - 1.0) + 2.0 * sd * density
    return mean, (sd * sd + mu * mu - mean * mean).clamp_min(0.0)


def exponential(mu: Tensor, sd: Tensor, rate: float) -> Tensor:
    """E exp(rate |w|) = e^(rate^2 s^2 / 2) (e^(rate mu) Phi(mu/s + rate s) + e^(-rate mu) Phi(rate s - mu/s))."""
    mu, sd = mu.double(), sd.double().clamp_min(1e-300)
    z, shift = mu / sd, rate * sd
    inside = torch.exp(rate * mu) * torch.special.ndtr(z + shift) + torch.exp(-rate * mu) * torch.special.ndtr(
        shift - z
    )
    return torch.exp(0.5 * shift * shift) * inside


def signal(mu: Tensor, sd: Tensor, criterion: str = "snr-abs", rate: float = 1.0) -> Tensor:
    """Larger = keep, never negative, of the shape of mu, float64.

    "snr-abs": E|w| / sd|w|; "mean-abs": E|w|; "snr": |mu| / s; "mean": |mu|; "snr-exp" and "mean-exp": the same two of
    exp(rate |w|).

    Source: Li et al. 2024 (SSVI), arXiv:2402.11025, section 4.2 and table 1.
    """
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, CRITERIA)
    if criterion == "mean":
        return mu.double().abs()
    if criterion == "snr":
        return mu.double().abs() / sd.double().clamp_min(1e-300)
    if criterion.endswith("abs"):
        mean, variance = folded(mu, sd)
    else:
        mean = exponential(mu, sd, rate)
        variance = (exponential(mu, sd, 2.0 * rate) - mean * mean).clamp_min(0.0)
    return mean / variance.sqrt().clamp_min(1e-300) if criterion.startswith("snr") else mean
