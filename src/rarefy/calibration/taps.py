"""Passes over a model that show some functions what enters or leaves some modules, token by token, and keep nothing."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run, call_model, inference, token_mask
from rarefy.calibration.chain import hidden
from rarefy.core.calls import first_input

Tap = Callable[[Tensor], None]  # gets (tokens, width), padding left out


def tap(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    inputs: Mapping[nn.Module, Tap] | None = None,
    outputs: Mapping[nn.Module, Tap] | None = None,
    run: Run = call_model,
) -> None:
    """Runs the batches; every tap sees the first input (or output) of its module before other hooks change it."""
    mask: list[Tensor | None] = [None]
    with ExitStack() as stack, inference(model):
        for module, function in (inputs or {}).items():
            before = module.register_forward_pre_hook(_before(function, mask), prepend=True, with_kwargs=True)
            stack.callback(before.remove)
        for module, function in (outputs or {}).items():
            stack.callback(module.register_forward_hook(_after(function, mask), prepend=True).remove)
        for i, batch in enumerate(batches):
            mask[0] = token_mask(batch)
            run(model, batch, i)


def _before(function: Tap, mask: list[Tensor | None]) -> Any:
    return lambda module, args, kwargs: function(real(first_input(args, kwargs), mask[0]))


def _after(function: Tap, mask: list[Tensor | None]) -> Any:
    return lambda module, args, output: function(real(hidden(output), mask[0]))


def real(x: Tensor, mask: Tensor | None) -> Tensor:
    """`(tokens, width)` of the tokens that are no padding; x is `(..., width)`, mask `(rows, tokens)` or None."""
    flat = x.detach().reshape(-1, x.shape[-1])
    return flat[mask.reshape(-1).to(flat.device)] if mask is not None and mask.numel() == len(flat) else flat


class Mean:
    """The mean of |x| of every feature over all tokens added, `(width,)` in float64."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.tokens = 0

    def add(self, x: Tensor) -> None:
        part = x.abs().double().sum(0)
        self.total = part if self.total is None else self.total + part
        self.tokens += len(x)

    def mean(self) -> Tensor:
        assert self.total is not None, "a tap that was never reached"
        return self.total / self.tokens


class Kept:
    """The share of entries that a mask function keeps, over all tokens added."""

    def __init__(self, mask: Callable[[Tensor], Tensor]) -> None:
        self.mask, self.kept, self.seen = mask, 0, 0

    def add(self, x: Tensor) -> None:
        self.kept += int(self.mask(x).sum())
        self.seen += x.numel()

    @property
    def sparsity(self) -> float:
        return 1.0 - self.kept / max(1, self.seen)


class Covariance:
    """`x^T x` summed over all tokens added, `(width, width)` in float64."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, x: Tensor) -> None:
        part = (x.T.float() @ x.float()).to(torch.float64)
        self.total = part if self.total is None else self.total + part
