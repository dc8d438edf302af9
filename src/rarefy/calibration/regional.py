"""Gradients of one block: how much its own output depends on each of its weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import blamed
from rarefy.calibration.blocks import Inputs
from rarefy.calibration.chain import hidden
from rarefy.calibration.gradients import trainable
from rarefy.core.errors import DataError
from rarefy.core.site import Site


def first_tensor(output: Any) -> Tensor:
    """The hidden states in whatever a block or model returns."""
    value = hidden(next(iter(output.values())) if isinstance(output, dict) else output)
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise DataError(f"a block gives {type(value).__name__}, but its output has to be a tensor of numbers")
    return value


def regional_gradients(block: nn.Module, sites: Sequence[Site], inputs: Inputs) -> dict[str, Tensor]:
    """{site: (out, n)}: root mean square over the batches of d|f(x)|_2 / dW / sqrt(T), f the block, T a batch's tokens.

    Source: Yang et al. 2025 (Wanda++), arXiv:2503.04992, section 3.1.
    Differs: the root of T. The gradient of a norm over T tokens grows like the norm of an input over T tokens, so both
    are taken by the token: what one is worth beside the other must not depend on how the data are cut into batches.
    """
    sums = {site.name: torch.zeros(site.shape) for site in sites}
    weights = [site.parameter for site in sites]
    with torch.enable_grad(), trainable(weights):
        for i, (args, kwargs) in enumerate(inputs):
            with blamed(f"data[{i}]", block, args):
                output = first_tensor(block(*args, **kwargs)).float()
            tokens = output.numel() // output.shape[1 if output.dim() == 4 else -1]
            grads = torch.autograd.grad(output.norm(), weights, allow_unused=True)
            for site, grad in zip(sites, grads, strict=True):
                if grad is not None:
                    sums[site.name] += site.as_matrix(grad).float().square() / (len(inputs) * tokens)
    return {name: total.sqrt() for name, total in sums.items()}
