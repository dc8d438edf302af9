"""One block of a Swin transformer of the transformers package, on some of its windows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.core.errors import ModelError
from rarefy.core.shapes import Float, Int

_PARTS = ("attention", "layernorm_before", "layernorm_after", "window_size", "shift_size", "set_shift_and_window_size")


def stages_of(model: nn.Module) -> list[list[Any]]:
    """The Swin blocks of a model, stage by stage. Raises ModelError that says what was looked for."""
    stages = []
    for module in model.modules():
        blocks = list(module) if isinstance(module, nn.ModuleList) else []
        if blocks and all(all(hasattr(block, part) for part in _PARTS) for block in blocks):
            stages.append(blocks)
    if not stages:
        raise ModelError(
            f"{type(model).__name__}: has no blocks of window attention; looked for lists of modules with "
            f"{', '.join(_PARTS)} (SwinModel and its heads in transformers)"
        )
    return stages


def window_norms(images: Tensor, window: int, shift: int) -> Float[Tensor, "images windows"]:
    """L2 norms of the features (images, height, width, channels) in each window."""
    return cut(images, window, shift).float().flatten(2).norm(dim=2)


def cut(images: Tensor, window: int, shift: int) -> Tensor:
    """Windows (n, windows, places, channels) of images (n, height, width, channels), padded with zeros at the right
    and bottom, then rolled."""
    n, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, 0, -width % window, 0, -height % window))
    rolled = torch.roll(padded, (-shift, -shift), (1, 2)) if shift else padded
    rows, columns = rolled.shape[1] // window, rolled.shape[2] // window
    parts = rolled.view(n, rows, window, columns, window, channels).permute(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, rows * columns, window * window, channels)


def kept_windows(
    block: Any, hidden: Float[Tensor, "images tokens channels"], size: tuple[int, int], kept: Int[Tensor, "images k"]
) -> Float[Tensor, "images tokens channels"]:
    """What the block gives if it computes the windows `kept` of each image only; the other tokens stay as they are."""
    n, tokens, channels = hidden.shape
    window, shift = int(block.window_size), int(block.shift_size)
    places = cut(torch.arange(1, tokens + 1, device=hidden.device).view(1, *size, 1), window, shift)[0, :, :, 0] - 1
    places = places[kept].flatten(0, 1)  # (images * k, places); -1 is padding
    inside = (places >= 0)[..., None]
    image = torch.arange(n, device=hidden.device).repeat_interleave(kept.shape[1])[:, None]
    index = image * tokens + places.clamp_min(0)
    rows = hidden.reshape(n * tokens, channels)
    x = rows.index_select(0, index.view(-1)).view(*index.shape, channels)
    normed = block.layernorm_before(x) * inside  # the dense block pads after the norm
    attended = block.attention(normed, _mask(block, size, kept, hidden))[0] if len(x) else normed
    x = x + block.drop_path(_dropout(block, attended))
    x = x + _feed_forward(block, block.layernorm_after(x))
    real = inside.view(-1).nonzero()[:, 0]
    changed = rows.index_copy(0, index.view(-1)[real], x.reshape(-1, channels)[real].to(rows.dtype))
    return changed.view(n, tokens, channels)


def _mask(block: Any, size: tuple[int, int], kept: Tensor, like: Tensor) -> Tensor | None:
    """The mask of shifted windows, one row a kept window: the attention sees them as the windows of one image."""
    height, width = (n + -n % int(block.window_size) for n in size)
    whole = block.get_attn_mask(height, width, dtype=like.dtype, device=like.device)
    return None if whole is None else whole[kept.reshape(-1)]


def _dropout(block: Any, x: Tensor) -> Tensor:
    return block.dropout(x) if hasattr(block, "dropout") else x  # older releases drop out inside the attention


def _feed_forward(block: Any, x: Tensor) -> Tensor:
    return _dropout(block, block.mlp(x)) if hasattr(block, "mlp") else block.output(block.intermediate(x))
