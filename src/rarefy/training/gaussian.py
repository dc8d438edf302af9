"""Weights that are independent Gaussians: the optimizer trains the means, the standard deviations learn beside it.

Between two steps the parameters hold one draw w = mu + sd * noise, sd = softplus(rho), so the model's forward pass and
its gradient g are those of reparametrised variational inference: dL/dmu = g, dL/dsd = g * noise.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Mask, Weight
from rarefy.training.run import Run
from rarefy.training.state import WeightState

_BETAS, _EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class KL:
    """The divergence from the prior, as a share of the mean loss of an example.

    weight: strength / examples, rising linearly from 0 over the share `warm` of total_steps (at once where it is 0);
    prior_sd: of the prior N(0, prior_sd^2), but where the method keeps a precision for each weight
    (`state.extra["precision"]`).
    """

    examples: int
    strength: float = 1.0
    warm: float = 0.0
    prior_sd: float = 1.0

    def __post_init__(self) -> None:
        if self.examples < 1 or self.strength < 0.0 or not 0.0 <= self.warm <= 1.0 or self.prior_sd <= 0.0:
            raise SparsityError(
                f"KL: examples={self.examples}, strength={self.strength}, warm={self.warm}, prior_sd={self.prior_sd}; "
                "give at least one example, a strength >= 0, a share 0 <= warm <= 1 and a positive prior_sd"
            )

    def weight(self, state: WeightState) -> float:
        rise = 1.0
        if self.warm > 0.0 and state.total_steps:
            rise = min(1.0, state.step / (self.warm * state.total_steps))
        return rise * self.strength / self.examples

    def precision(self, state: WeightState) -> Tensor | float:
        return state.extra.get("precision", 1.0 / self.prior_sd**2)


@dataclass(frozen=True)
class Sampled:
    """The forward pass sees mask * (mu + softplus(rho) * noise); the gradient there, plus the KL's, trains mu.

    first: the standard deviation at the start, as a share of the weights' own before training.
    """

    kl: KL
    first: float = 0.1
    wants_dense_grad: ClassVar[bool] = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: WeightState) -> None:
        shape, sd = state.weight.shape, max(1e-6, self.first * state.first_sd)
        state.extra["rho"] = torch.full(shape, inverse_softplus(sd))
        for name in ("noise", "rho_mean", "rho_square"):
            state.extra[name] = torch.zeros(shape)

    def view(self, weight: Weight, state: Any) -> Weight:
        drawn: Weight = weight + (sd_of(state) * state.extra["noise"]).to(weight.dtype)
        return drawn * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        pull = self.kl.weight(state) * self.kl.precision(state) * weight
        return (grad + pull.to(grad.dtype)) * state.mask

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask


def inverse_softplus(sd: float) -> float:
    return sd + math.log(-math.expm1(-sd))


def sd_of(state: WeightState) -> Weight:
    """Standard deviations, (out, in), float32."""
    return F.softplus(state.extra["rho"])


def learn_spread(run: Run, kl: KL, lr: float) -> None:
    """One step of Adam on rho, from the gradients that are there: (g * noise + KL') * sigmoid(rho), of kept entries.

    KL' = weight * (precision * sd - 1 / sd). Call it ahead of the optimizer's step.
    """
    for state in run.states:
        grad = state.grad()
        if grad is None:
            continue
        extra, sd = state.extra, sd_of(state).clamp_min(1e-12)
        slope = grad.float() * extra["noise"] + kl.weight(state) * (kl.precision(state) * sd - 1.0 / sd)
        slope = slope * torch.sigmoid(extra["rho"]) * state.mask
        extra["rho_mean"].mul_(_BETAS[0]).add_(slope, alpha=1.0 - _BETAS[0])
        extra["rho_square"].mul_(_BETAS[1]).addcmul_(slope, slope, value=1.0 - _BETAS[1])
        first, second = (1.0 - beta ** (run.step + 1) for beta in _BETAS)
        push = (extra["rho_mean"] / first) / ((extra["rho_square"] / second).sqrt() + _EPS)
        extra["rho"].sub_(lr * push * state.mask)


def draw(run: Run) -> None:
    """New noise for the next forward pass, the same on all ranks."""
    for state in run.moving:
        state.extra["noise"] = torch.randn(state.weight.shape, generator=run.generator)


def settle(run: Run, state: WeightState, before: Mask) -> None:
    """After a change of the mask: what is gone or new has mean 0 and no memory; new ones get the mean sd of the old."""
    changed, fresh = before ^ state.mask, state.mask & ~before
    assert state.master is not None
    state.master.masked_fill_(changed, 0.0)
    run.forget(state, changed, fresh)
    stayed = before & state.mask
    if bool(fresh.any()) and bool(stayed.any()):
        state.extra["rho"].masked_fill_(fresh, inverse_softplus(max(1e-6, float(sd_of(state)[stayed].mean()))))
    for name in ("rho_mean", "rho_square"):
        state.extra[name].masked_fill_(changed, 0.0)
