"""Hooks of a model whose blocks are computed in bases of their own: what changes from one basis to the next."""

from typing import Any

from torch import Tensor


class Adapter:
    """A forward pre-hook: the first argument is multiplied by the module's `residual_adapter` (width, width)."""

    def __call__(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0] @ module.residual_adapter, *args[1:])


class Turn:
    """A forward hook: the output is multiplied by the module's `rotation` (width, width)."""

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output @ module.rotation
