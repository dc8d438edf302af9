"""Unlearning without training: noise where the retained data do not mind, and one step of influence functions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from rarefy.calibration.batches import evaluation
from rarefy.core.errors import SparsityError

Examples = tuple[Tensor, Tensor]
_MOST = 1e-1  # noise beyond this standard deviation, where the Fisher is zero, would only break the net


def gradient_rows(model: nn.Module, data: Examples) -> Tensor:
    """The gradient of the cross-entropy of each example in all trained parameters, (examples, parameters)."""
    values = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b.detach() for name, b in model.named_buffers()}

    def loss(parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {**parameters, **buffers}, (x[None],)), y[None])

    with evaluation(model):
        each = vmap(grad(loss), in_dims=(None, 0, 0))(values, *data)
    return torch.cat([each[name].flatten(1) for name in values], dim=1)


def _move(model: nn.Module, step: Tensor) -> None:
    """Adds a step (parameters,) to the trained parameters."""
    at = 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(step[at : at + parameter.numel()].view_as(parameter))
                at += parameter.numel()


def _some(data: Examples, count: int, generator: torch.Generator) -> Examples:
    at = torch.randperm(len(data[0]), generator=generator)[:count]
    return data[0][at], data[1][at]


def fisher_noise(model: nn.Module, retain: Examples, strength: float, samples: int, seed: int) -> None:
    """Adds noise of variance `strength / F` (at most 0.01), F the Fisher diagonal of the retained examples.

    samples: how many of them F is the mean over. Source: Golatkar et al. 2020, arXiv:1911.04933, section 3.2; the bound
    on the noise: Jia et al. 2023's experiments have one too.
    """
    generator = torch.Generator().manual_seed(seed)
    total: Tensor | None = None
    chosen = _some(retain, samples, generator)
    for x, y in zip(chosen[0].split(64), chosen[1].split(64), strict=True):
        part = gradient_rows(model, (x, y)).square().sum(0)
        total = part if total is None else total + part
    assert total is not None
    spread = (strength * len(chosen[0]) / total).sqrt().clamp(max=_MOST)
    _move(model, spread * torch.randn(spread.shape, generator=generator))


def influence_step(
    model: nn.Module, retain: Examples, forget: Examples, strength: float, damping: float, samples: int, seed: int
) -> None:
    """theta + strength * H^-1 v: where training without the forgotten data would have led, to first order.

    v = sum_forget g / N - (n_f / (N n_r)) sum_retain g, g the gradients of single examples, N = n_f + n_r; H = damping
    plus the empirical Fisher of `samples` retained examples, inverted exactly.
    Source: Jia et al. 2023, arXiv:2304.04934, section 2 (IU), after Koh and Liang 2017, arXiv:1703.04730.
    Differs: theirs inverts by the recursion of WoodFisher, which is the same matrix.
    """
    if damping <= 0.0:
        raise SparsityError(f"damping: {damping} does not make the Fisher invertible; give a positive number")
    n_f, n_r = len(forget[0]), len(retain[0])
    of_forget = _mean_gradient(model, forget) * n_f / (n_f + n_r)
    of_retain = _mean_gradient(model, retain) * n_f / (n_f + n_r)
    rows = gradient_rows(model, _some(retain, samples, torch.Generator().manual_seed(seed)))
    _move(model, strength * solve_fisher(rows, of_forget - of_retain, damping))


def solve_fisher(rows: Tensor, v: Tensor, damping: float) -> Tensor:
    """`(damping I + G^T G / m)^-1 v` for rows G (m, parameters), through the m x m system."""
    m = len(rows)
    small = rows.double() @ rows.double().t() + damping * m * torch.eye(m, dtype=torch.float64)
    inside = torch.linalg.solve(small, rows.double() @ v.double())
    return ((v.double() - rows.double().t() @ inside) / damping).to(v.dtype)


def _mean_gradient(model: nn.Module, data: Examples) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    with evaluation(model):
        found = torch.autograd.grad(F.cross_entropy(model(data[0]), data[1]), parameters)
    return torch.cat([g.flatten() for g in found])
