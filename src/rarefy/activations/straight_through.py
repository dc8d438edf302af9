"""Selection in training: the layer sees the selected input, the gradient passes as if all had been selected."""

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

    def kept(self, x: Tensor) -> Tensor:
        """The value is what is left of x to the bit, the gradient that of x."""
        with torch.no_grad():
            kept = x * self.selector.mask(x)
            if self.levels is not None:
                scale = kept.abs().amax(-1, keepdim=True).clamp_min(1e-5) / self.levels
                kept = (kept / scale).round() * scale
        return kept + (x - x.detach())
