"""Layers with correlated inputs, on which what is kept can make up for what goes."""

import torch
from torch import Tensor


def correlated(out: int = 24, n: int = 32, tokens: int = 200, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight `(out, n)` and inputs `(tokens, n)` that live mostly in n / 4 directions."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n // 4, n, generator=generator)
    x = torch.randn(tokens, n // 4, generator=generator) @ mix + 0.3 * torch.randn(tokens, n, generator=generator)
    return torch.randn(out, n, generator=generator), x
