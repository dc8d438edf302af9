"""The rows that a site's weight is multiplied with, as a matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.shapes import Float


def _patches(conv: nn.Conv2d, x: Tensor) -> Float[Tensor, "tokens groups n"]:
    """One row an output pixel: the patch that the kernel sees there, in the weight's own order."""
    left, right, top, bottom = conv._reversed_padding_repeated_twice
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = F.pad(x if x.dim() == 4 else x[None], (left, right, top, bottom), mode=mode)
    size = (conv.kernel_size[0], conv.kernel_size[1])
    columns = F.unfold(x, size, dilation=conv.dilation, stride=conv.stride)  # (batch, in * kh * kw, pixels)
    return columns.transpose(1, 2).reshape(-1, conv.groups, columns.shape[1] // conv.groups)


def input_rows(module: nn.Module, x: Tensor, real: Tensor | None) -> Float[Tensor, "tokens groups n"]:
    """The inputs of a site as `(tokens, groups, n)` float32 rows (groups = 1 but for grouped convolutions).

    real: a (batch, tokens) mask of which tokens are no padding; used where x has these two leading axes.
    """
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if isinstance(module, nn.Conv2d):
        return _patches(module, x)
    if real is not None and x.dim() == 3 and x.shape[:2] == real.shape:
        x = x[real]
    return x.reshape(-1, 1, x.shape[-1])


def output_rows(module: nn.Module, y: Tensor, real: Tensor | None) -> Float[Tensor, "tokens groups out"]:
    """The outputs of a site without its bias, in the rows of `input_rows`: what the weight alone has to give."""
    y = y.detach().to(torch.promote_types(y.dtype, torch.float32))
    bias = getattr(module, "bias", None)
    if isinstance(module, nn.Conv2d):
        y = (y if y.dim() == 4 else y[None]).flatten(2).transpose(1, 2)
    elif real is not None and y.dim() == 3 and y.shape[:2] == real.shape:
        y = y[real]
    y = y if bias is None else y - bias.detach()
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    return y.reshape(-1, groups, y.shape[-1] // groups)
