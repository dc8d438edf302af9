"""Training on after pruning, for studies: the zeros of the weights are held, everything else moves."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.site import Site, find_sites

Loss = Callable[[nn.Module, Any], Tensor]


def zeros_of(model: nn.Module) -> dict[str, Tensor]:
    """{layer: where its weight is zero, in the parameter's own shape (bool)}."""
    return {site.name: site.parameter.detach() == 0 for site in find_sites(model)[0]}


def fit(
    model: nn.Module, batches: Sequence[Any], loss: Loss, *, epochs: int = 1, rate: float = 1e-3, seed: int = 0
) -> None:
    """Adam over the batches in an order drawn by the seed, in place; weights that are zero stay zero.

    Optimizers with a memory move weights whose gradient is zero, so the zeros are written back after each step.
    """
    sites, zeros = find_sites(model)[0], zeros_of(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for index in torch.randperm(len(batches), generator=generator).tolist():
            optimizer.zero_grad()
            loss(model, batches[index]).backward()
            optimizer.step()
            write_zeros(sites, zeros)


def write_zeros(sites: Sequence[Site], zeros: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for site in sites:
            site.parameter.masked_fill_(zeros[site.name], 0.0)
