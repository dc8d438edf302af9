"""Hooks of a model whose blocks are computed in bases of their own: what changes from one basis to the next."""

from typing import Any

from torch import Tensor

from rarefy.core.calls import first_input, with_first_input


class Adapter:
    """A forward pre-hook that takes keywords: the first argument is multiplied by the module's `residual_adapter`
    (width, width)."""

    def __call__(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return with_first_input(args, kwargs, first_input(args, kwargs) @ module.residual_adapter)


class Turn:
    """A forward hook: the output is multiplied by the module's `rotation` (width, width)."""

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output @ module.rotation
