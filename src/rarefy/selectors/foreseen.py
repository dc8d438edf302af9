"""Selections that are foreseen: made from one place of the model, and used at a later one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.core.calls import first_input
from rarefy.core.errors import ModelError
from rarefy.core.selection import Selection
from rarefy.core.shapes import Bool, Float
from rarefy.selectors.masked import selected

Choose = Callable[[Tensor], Tensor]  # (..., width of the source) -> bool (..., width of the target)


class Watch:
    """A forward pre-hook that takes keywords: a `Foreseen` makes its choice from the first argument, as the hooks
    before left it."""

    def __init__(self, foreseen: "Foreseen") -> None:
        self.foreseen = foreseen

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.foreseen.see(first_input(args, kwargs))


def watches(module: nn.Module) -> list[Watch]:
    """What a module's input lets foresee."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, Watch)]


class Foreseen:
    """A selector whose mask was made when `source` ran, from its input; `watch` hangs it there.

    Whatever the selected activation is does not matter: that is what lets its computation be left out.
    """

    def __init__(self, choose: Choose, width: int) -> None:
        self.choose, self._width = choose, width
        self._mask: Tensor | None = None

    @property
    def width(self) -> int | None:
        """Features of the target."""
        return self._width

    def watch(self, source: nn.Module) -> RemovableHandle:
        """Makes the choice each time that `source` is called, from its first argument as its own hooks leave it."""
        return source.register_forward_pre_hook(Watch(self), with_kwargs=True)

    def see(self, x: Tensor) -> None:
        """Makes the choice from the source's input."""
        with torch.no_grad():
            self._mask = self.choose(x)

    def mask(self, x: Float[Tensor, "*tokens width"]) -> Bool[Tensor, "*tokens width"]:
        """True = keep; the choice of the source's last call. ModelError if it did not run for these tokens."""
        if self._mask is None or self._mask.shape != x.shape:
            seen = "has not run" if self._mask is None else f"saw {tuple(self._mask.shape)}"
            raise ModelError(
                f"Foreseen: the layer that chooses {seen}, the activation is {tuple(x.shape)}; call the whole model"
            )
        return self._mask

    def __call__(self, x: Float[Tensor, "tokens width"], context: Any = None) -> Selection:
        return selected(x, self.mask(x))
