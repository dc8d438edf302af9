"""The way back from a turned basis: the weights as they were, and no rotation between the blocks."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from rarefy.activations.rotation import Turnable
from rarefy.core.calls import take_off
from rarefy.selectors.turned import Adapter, Turn


def turning_back(found: Turnable) -> Callable[[], None]:
    """What makes `rotate` undone, to the bit; call it before, since it keeps a copy of the weights of the blocks."""
    kept = [(parameter, parameter.detach().clone()) for module in _changed(found) for parameter in module.parameters()]

    def back() -> None:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)
        for module in _turned(found):
            _straighten(module)

    return back


def _changed(found: Turnable) -> Iterator[nn.Module]:
    """The modules whose parameters are turned."""
    for block in found.blocks.values():
        yield from (block.norm, block.inner_norm, *block.readers, block.out, *block.inner_readers, block.down)


def _turned(found: Turnable) -> Iterator[nn.Module]:
    """The modules that may have a rotation."""
    for block in found.blocks.values():
        yield from (block.module, block.inner_norm)
    yield found.final_norm


def _straighten(module: Any) -> None:
    take_off(module, lambda hook: isinstance(hook, Adapter | Turn))
    for buffer in ("residual_adapter", "rotation"):
        module._buffers.pop(buffer, None)
