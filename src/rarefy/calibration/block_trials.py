"""Blocks with a sample of their dense inputs and outputs, to try changes inside a block against what it gave before."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Run, call_model, inference, token_mask
from rarefy.calibration.chain import hidden
from rarefy.calibration.taps import real

_Call = tuple[tuple[Any, ...], dict[str, Any], Tensor, Tensor | None]  # arguments, output, mask of real tokens


@dataclass(frozen=True, eq=False)
class BlockTrial:
    """One block and its calls. The tensors of a call are shared with the neighbouring blocks' calls."""

    module: nn.Module
    calls: list[_Call] = field(default_factory=list)

    def error(self) -> float:
        """`||f(x) - f_dense(x)|| / ||f_dense(x)||` of the block as it is now, over the sample."""
        off = size = 0.0
        with inference(self.module):
            for args, kwargs, wanted, mask in self.calls:
                now = real(hidden(self.module(*args, **kwargs)), mask)
                dense = real(wanted, mask)
                off += float((now - dense).float().square().sum())
                size += float(dense.float().square().sum())
        return (off / max(size, torch.finfo(torch.float64).tiny)) ** 0.5


def sample(batches: Sequence[Batch], tokens: int) -> list[Batch]:
    """The leading batches and rows with at least `tokens` tokens (rows times length); all where there are fewer."""
    taken: list[Batch] = []
    left = tokens
    for batch in batches:
        rows, length = _extent(batch)
        keep = min(rows, max(1, math.ceil(left / max(1, length))))
        taken.append(batch if keep == rows else _rows(batch, rows, keep))
        left -= keep * length
        if left <= 0:
            break
    return taken


def count_tokens(batches: Sequence[Batch]) -> int:
    """Tokens of the batches, padding left out where they carry an attention mask."""
    masks = [(token_mask(batch), _extent(batch)) for batch in batches]
    return sum(rows * length if mask is None else int(mask.sum()) for mask, (rows, length) in masks)


def _tensors(batch: Batch) -> list[Tensor]:
    given = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    return [value for value in given if isinstance(value, Tensor) and value.dim() >= 2]


def _extent(batch: Batch) -> tuple[int, int]:
    """(rows, tokens a row) of a batch; one token a batch where it holds no tensor of two axes."""
    found = _tensors(batch)
    return (found[0].shape[0], found[0].shape[1]) if found else (1, 1)


def _rows(batch: Batch, rows: int, keep: int) -> Batch:
    def cut(value: Any) -> Any:
        return value[:keep] if isinstance(value, Tensor) and value.dim() and len(value) == rows else value

    if isinstance(batch, Mapping):
        return {name: cut(value) for name, value in batch.items()}
    return [cut(value) for value in batch] if isinstance(batch, tuple | list) else cut(batch)


def block_trials(
    model: nn.Module, blocks: Mapping[int, nn.Module], batches: Sequence[Batch], run: Run = call_model
) -> dict[int, BlockTrial]:
    """{number: trial} of the blocks on these batches, in one pass. Memory: every block's input and output of them."""
    trials = {number: BlockTrial(module) for number, module in blocks.items()}
    mask: list[Tensor | None] = [None]
    given: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def enter(trial: BlockTrial) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given[trial.module] = args, dict(kwargs)

        return hook

    def leave(trial: BlockTrial) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            trial.calls.append((*given.pop(module), hidden(output), mask[0]))

        return hook

    with ExitStack() as stack, inference(model):
        for trial in trials.values():  # the arguments before the block's own hooks change them: they will again
            before = trial.module.register_forward_pre_hook(enter(trial), prepend=True, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(trial.module.register_forward_hook(leave(trial)).remove)
        for i, batch in enumerate(batches):
            mask[0] = token_mask(batch)
            run(model, batch, i)
    return trials
