"""Products of 8-bit rows, called as the engine calls them, and their exact integer sums."""

import torch
from torch import Tensor

from rarefy import ops
from rarefy.core.quantized import InputScale


def bytes_of(tokens: int, width: int, seed: int = 2) -> Tensor:
    """Random bytes (tokens, width), with both extremes among them."""
    x = torch.randint(0, 256, (tokens, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    if x.numel():
        x.view(-1)[0], x.view(-1)[-1] = 0, 255
    return x


def product8(packed, x: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None = None, to=None, activation="none"):
    """act(scale (x - zero) W^T + bias): x uint8 (tokens, in), scale and zero (tokens) or (1).

    to: scale and zero point of the bytes wanted, and factors of outputs or none; or None for floats.
    """
    out = torch.empty(x.shape[0], packed.shape[0], dtype=torch.float32 if to is None else torch.uint8)
    wanted = InputScale(*to) if to else InputScale(0.0, 0)
    inverse = wanted.inverse if wanted.factors else None
    packed.layout.multiply8(
        x.data_ptr(), x.shape[0], scale.data_ptr(), zero.data_ptr(), int(len(scale) > 1),
        0 if bias is None else bias.data_ptr(), ops.ACTIVATIONS.index(activation), out.data_ptr(),
        wanted.scale, wanted.zero, 0 if inverse is None else inverse.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out


def exact_sums(x: Tensor, zero: Tensor, codes: Tensor) -> Tensor:
    """sum (x - zero) codes, in 64-bit integers: (tokens, out)."""
    return (x.long() - zero.long().view(-1, 1)) @ codes.long().T
