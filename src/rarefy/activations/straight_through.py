"""Selection in training: the layer sees the selected input, the gradient passes as if all had been selected."""

from typing import Any

import torch
from torch import Tensor, nn

from rarefy.selectors import InputSelector
from rarefy.selectors.attach import Masking


def trained(module: nn.Module) -> "StraightThrough | None":
    """The straight-through selector on a layer's input, or None."""
    return next((hook for hook in module._forward_pre_hooks.values() if isinstance(hook, StraightThrough)), None)


def train_through(module: nn.Module, levels: int | None) -> None:
    """Makes the selector on a layer's input one with gradients straight through, in its place among the hooks."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, InputSelector):
            module._forward_pre_hooks[key] = StraightThrough(hook.selector, levels)


class StraightThrough(InputSelector):
    """A selector of inputs with dx = dy W at all entries; the weight's gradient is of the selected input, dy^T (x * m).

    levels: rounds what is kept to that many steps of the token's largest entry (127 for int8), gradient as if not.
    Evaluation and the engine see an ordinary selector of inputs.
    """

    def __init__(self, selector: Masking, levels: int | None = None) -> None:
        super().__init__(selector)
        self.levels = levels

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.active:
            return None
        x: Tensor = args[0]
        with torch.no_grad():
            kept = x * self.selector.mask(x)
            if self.levels is not None:
                scale = kept.abs().amax(-1, keepdim=True).clamp_min(1e-5) / self.levels
                kept = (kept / scale).round() * scale
        return (kept + (x - x.detach()), *args[1:])  # the value is kept to the bit, the gradient is that of x
