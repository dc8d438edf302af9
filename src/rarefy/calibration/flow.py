"""Synaptic flow: the gradient of a model of absolute weights on an input of ones."""

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, Stop, as_call, blamed, evaluation
from rarefy.core.errors import DataError
from rarefy.core.site import Site


def _ones(value: Any) -> Any:
    """Ones of one row in place of floats; whole numbers (tokens, masks) stay, since they say where, not how much."""
    if not isinstance(value, Tensor):
        return value
    return torch.ones_like(value[:1], dtype=torch.float64) if value.is_floating_point() else value[:1]


def _tensors(output: Any) -> list[Tensor]:
    """Every floating-point tensor in whatever a model returns."""
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _call_of(
    model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Any] | None
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """What the model is called with: the batch itself or, where a loss is given, what that makes of it."""
    if loss is None:
        return as_call(batch)
    seen: list[tuple[Sequence[Any], Mapping[str, Any]]] = []

    def look(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        seen.append((args, kwargs))
        raise Stop

    hook = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with suppress(Stop), blamed("data[0]", model, batch):
            loss(model, batch)
    finally:
        hook.remove()
    return seen[0] if seen else as_call(batch)


def synaptic_flow(
    model: nn.Module,
    sites: Sequence[Site],
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Any] | None = None,
) -> dict[str, Tensor]:
    """{site: dR/d|W| (out, n)} in float64, R = sum of f(1) with every parameter and buffer of f by its absolute value.

    batch: only its shapes are used (and its whole numbers, which say which embeddings are taken); one row. loss: calls
    the model with what it makes of the batch, as everywhere; nothing else is asked of it.
    Source: Tanaka et al. 2020 (SynFlow), arXiv:2006.05467, section 4 and algorithm 1.
    Differs: biases take part by their absolute value, as in the paper's code. What flows has to stay linear in the
    weights, so batch norm works by mean 0 and variance 1, and layer and RMS norms only by their weights and biases
    (the paper has no such nets; centred, their outputs would always add up to nothing).
    """
    made: dict[int, Any] = {}  # of each module of the model, its copy
    twin = copy.deepcopy(model, made).double()
    _make_linear(twin)
    args, kwargs = _call_of(model, batch, loss)
    weights = [replace(site, modules=(made[id(site.module)],)).parameter for site in sites]
    with evaluation(twin), torch.enable_grad():
        for weight in weights:
            weight.requires_grad_(True)
        with blamed("data[0]", model, batch):
            outputs = _tensors(twin(*map(_ones, args), **{k: _ones(v) for k, v in kwargs.items()}))
        flow = torch.stack([output.double().sum() for output in outputs]).sum()
        grads = torch.autograd.grad(flow, weights, allow_unused=True)
    found = {}
    for site, grad in zip(sites, grads, strict=True):
        if grad is None or not grad.isfinite().all():
            why = "does not reach" if grad is None else "overflows in"
            raise DataError(f"{site.name}: synaptic flow {why} this layer; leave it alone with ignore=")
        found[site.name] = site.as_matrix(grad)
    return found


def _make_linear(twin: nn.Module) -> None:
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.reset_running_stats()
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(_affine, module)


def _affine(norm: nn.Module, x: Tensor) -> Tensor:
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    x = x if weight is None else x * weight
    return x if bias is None else x + bias
