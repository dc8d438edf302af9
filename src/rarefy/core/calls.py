"""Hooks of modules: the input of a call whether it is given by position or by name, and taking hooks off."""

from collections.abc import Callable
from typing import Any

from torch import nn


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first argument of a call, None where it has none: `layer(x)` and `layer(input=x)` both give x."""
    return args[0] if args else next(iter(kwargs.values()), None)


def with_first_input(args: tuple[Any, ...], kwargs: dict[str, Any], x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another first one, given in the same way.

    >>> with_first_input((), {"input": 1, "mask": 2}, 3)
    ((), {'input': 3, 'mask': 2})
    """
    if args:
        return (x, *args[1:]), kwargs
    return (), kwargs | {next(iter(kwargs)): x}


def take_off(module: nn.Module, wanted: Callable[[Any], bool]) -> list[Any]:
    """Removes the forward hooks and pre-hooks of a module that are `wanted`; gives them in their order."""
    taken = []
    for hooks, named in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for key, hook in list(hooks.items()):
            if wanted(hook):
                taken.append(hooks.pop(key))
                named.pop(key, None)
    return taken
