"""Sparse layers in training: forward, both gradients, and edits, of any window on any image."""

import random

import torch
import torch.nn.functional as F
from convs import _problem
from draw import threads
from guard import guarded, outputs
from oracle import EPS
from torch import Tensor

from rarefy.ops import Layer
from rarefy.training.runtime import Topology


def case(rng: random.Random) -> None:
    problem = _problem(rng)
    if problem is None:
        return
    weight, window, x, bias = problem
    layer = Layer(weight.shape[0], (x.shape[1], x.shape[2], x.shape[3]), (weight.shape[2], weight.shape[3]), window)
    topology = Topology(weight.flatten(1) != 0)
    if rng.random() < 0.3 and topology.nnz:
        topology.edit(torch.randperm(topology.nnz)[: topology.nnz // 2], torch.empty(0, dtype=torch.long))
        weight = weight * topology.mask.view_as(weight)
    values = guarded(topology.gather(weight))
    threads(rng)
    index = topology.index(layer)
    with outputs():
        y = index.forward(values, x, bias)
        grad = guarded(torch.randn(y.shape, generator=torch.Generator().manual_seed(rng.randrange(2**31))))
        dx, dv = index.input_grad(values, grad), index.weight_grad(grad, x)
    sides = (window.stride, window.padding, window.dilation, window.groups)
    want, size = (_dense(f, x, weight, bias, grad, sides) for f in (lambda t: t.double(), lambda t: t.double().abs()))
    places = grad.shape[0] * grad.shape[2] * grad.shape[3]
    _close(y, want[0], size[0], weight[0].numel())
    _close(dx, want[1], size[1], weight[:, 0].numel())
    _close(dv, topology.gather(want[2]), topology.gather(size[2]), places)


def _dense(convert, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor, sides) -> tuple[Tensor, ...]:  # type: ignore[no-untyped-def]
    a, b = convert(x).requires_grad_(), convert(weight).requires_grad_()
    y = F.conv2d(a, b, convert(bias), *sides)
    y.backward(convert(grad))
    return y.detach(), a.grad, b.grad


def _close(got: Tensor, want: Tensor, total: Tensor, terms: int) -> None:
    assert got.shape == want.shape and not got.isnan().any()
    assert not ((got.double() - want).abs() > 2 * EPS * (terms + 2) * total + 1e-30).any()
