"""A gated language model becomes one with dReLU, and learns back what it lost from what it was."""

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.analysis.activation_stats import ActivationStats, activation_stats
from rarefy.calibration.batches import as_batches, token_mask
from rarefy.core.errors import DataError, SparsityError
from rarefy.recipes.evaluations.language import logits_of
from rarefy.selectors.readers import readers


@dataclass(frozen=True)
class Conversion:
    """The loss of every step, and how dense the down projections' inputs are afterwards."""

    losses: tuple[float, ...]
    stats: ActivationStats


def convert_to_drelu(
    model: nn.Module, data: Iterable[Any], *, steps: int, lr: float = 1e-3, seed: int = 0
) -> Conversion:
    """Swaps the activations for dReLU in place and distils the model from its old self, all weights trained.

    Loss: KL(old next-token distribution, new one), a mean over tokens without padding; Adam, its rate falling to 0.
    data: batches of model inputs, in an order drawn by the seed. It is the start of a recovery: go on with the ordinary
    loss on much text, as the paper does with 150 billion tokens. Source: Song et al. 2024, arXiv:2406.05955, section 4.
    Differs: the paper trains on the language loss alone. Matching hidden states (`rarefy.distill`) is not used: it was
    measured to fill the zeros up again (a tiny model: 26 to 28 % dense, where the swap alone leaves 24 to 25 %).
    """
    if steps < 1 or lr <= 0:
        raise SparsityError(f"convert_to_drelu: steps={steps} and lr={lr} have to be positive")
    batches = as_batches(data, method="convert_to_drelu", needed=True)
    teacher = copy.deepcopy(model).eval()
    DReLU().apply(model)
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr, betas=(0.9, 0.98))
    losses: list[float] = []
    for step, batch in zip(range(steps), _endless(batches, seed), strict=False):
        adam.param_groups[0]["lr"] = lr * (1 - step / steps)
        loss = _divergence(model, teacher, batch)
        if not bool(loss.isfinite()):
            raise DataError(f"convert_to_drelu: the loss of step {step} is {float(loss.detach())}; lower lr")
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    adam.zero_grad()
    downs = list(readers(model, None, ("down",)))
    return Conversion(tuple(losses), activation_stats(model, batches, layers=downs))


def _divergence(model: nn.Module, teacher: nn.Module, batch: Any) -> Tensor:
    with torch.no_grad():
        wanted = logits_of(teacher, batch).float().log_softmax(-1)
    found, real = logits_of(model, batch).float().log_softmax(-1), token_mask(batch)
    each = F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1)
    return each.mean() if real is None else each[real].mean()


def _endless(batches: Sequence[Any], seed: int) -> Iterator[Any]:
    order = random.Random(seed)
    while True:
        yield from order.sample(list(batches), len(batches))
