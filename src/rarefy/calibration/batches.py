"""Batches as users give them, checked once, and how to call a model with one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError, RarefyError

Batch = Any  # a tensor, a tuple of positional arguments, or a dict of keyword arguments
Run = Callable[[nn.Module, Batch, int], Any]  # runs a model on the batch of that index


class Stop(Exception):
    """Raised by a hook to end a forward pass early; never reaches the user."""


def _tensors(batch: Batch) -> list[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        return [("input", batch)]
    if isinstance(batch, Mapping):
        return [(str(k), v) for k, v in batch.items() if isinstance(v, Tensor)]
    if isinstance(batch, tuple | list):
        return [(f"argument {i}", v) for i, v in enumerate(batch) if isinstance(v, Tensor)]
    return []


def as_batches(data: object, *, method: str, needed: bool, what: str = "data") -> list[Batch]:
    """A list of batches, or an error that says what is wrong with `data`; what: the argument that it was given as.

    A lone tensor is refused rather than walked row by row: which axis are the batches would be a guess.
    """
    if data is None:
        if needed:
            raise DataError(f"{method}: needs calibration data; give {what}=, an iterable of batches of model inputs")
        return []
    if isinstance(data, Tensor | Mapping | str | bytes) or not isinstance(data, Iterable):
        raise DataError(
            f"{method}: {what} is one {type(data).__name__}, not an iterable of batches; put it into a list: "
            f"{what}=[batch]"
        )
    batches = list(data)
    if not batches and needed:
        raise DataError(f"{method}: {what} is empty; give at least one batch")
    for i, batch in enumerate(batches):
        for name, tensor in _tensors(batch):
            _require_values(f"{method}: {what}[{i}] {name}", tensor)
    masks = [token_mask(batch) for batch in batches]
    if masks and not any(mask is None or mask.any() for mask in masks):
        raise DataError(f"{method}: {what} is padding only, its attention_mask is 0 everywhere; give text")
    return batches


def _require_values(where: str, tensor: Tensor) -> None:
    if tensor.numel() == 0:
        raise DataError(f"{where} has shape {tuple(tensor.shape)} and no element")
    if tensor.is_meta:
        raise DataError(f"{where} is on the meta device and has no values; give real data")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise DataError(f"{where} holds NaN or infinity; clean the data")


def as_call(batch: Batch) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments of a batch: a tensor, a tuple, or a mapping."""
    if isinstance(batch, Mapping):
        return [], dict(batch)
    return (list(batch) if isinstance(batch, tuple | list) else [batch]), {}


def call_model(model: nn.Module, batch: Batch, index: int, what: str = "data") -> Any:
    """`model(batch)`; an error that the model raises is reported as one of that batch of the argument `what`."""
    if isinstance(batch, str | bytes):
        raise DataError(
            f"{what}[{index}]: {type(model).__name__} does not take this batch, which is text; tokenize it first: "
            f'{what}=[tokenizer(text, return_tensors="pt") for text in texts]'
        )
    with blamed(f"{what}[{index}]", model, batch):
        args, kwargs = as_call(batch)
        return model(*args, **kwargs)


@contextmanager
def blamed(where: str, module: nn.Module, batch: Batch) -> Iterator[None]:
    """Reports what a module raises when run as an error of the batch that it was run on."""
    try:
        yield
    except (Stop, RarefyError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:  # arrays have no `dim()`
        shapes = {name: tuple(t.shape) for name, t in _tensors(batch)}
        raise DataError(
            f"{where}: {type(module).__name__} does not take this batch {shapes}: {type(error).__name__}: {error}"
        ) from error


def runner(loss: Callable[[nn.Module, Batch], Any] | None, what: str = "data") -> Run:
    """How a model is run on a batch: through `loss` where one is given, since a batch is then what it understands."""
    if loss is None:
        return partial(call_model, what=what)
    return lambda model, batch, index: loss(model, batch)


def token_mask(batch: Batch) -> Tensor | None:
    """The (batch, tokens) mask of real tokens where the batch carries one: padding is no evidence."""
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and mask.dim() == 2 else None


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no cache that would grow under replay; both restored after."""
    training = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    caches = getattr(config, "use_cache", None) is True
    model.eval()
    if caches:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        if caches:
            config.use_cache = True  # type: ignore[union-attr]


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients."""
    with evaluation(model), torch.no_grad():
        yield
