"""SparseProp (IST-DASLab/sparseprop) as a peer: a stack of linear layers, or ResNet-18, forward and backward.

run_sparseprop.py stack BATCH SPARSITY THREADS WIDTH WIDTH ...
run_sparseprop.py resnet18 IMAGES SIZE SPARSITY THREADS
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from serve import serve
from sparseprop.modules import SparseLinear, sparsify_conv2d_auto
from torch import nn

sys.path.append(str(Path(__file__).parent.parent / "training"))


def stack(batch: int, sparsity: float, widths: list[int]) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        weight = torch.randn(out, into, generator=generator) * into**-0.5
        layers += [SparseLinear(weight * (torch.rand(out, into, generator=generator) >= sparsity)), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x = torch.randn(batch, widths[0], generator=generator).requires_grad_()
    grad = torch.randn(batch, widths[-1], generator=generator)

    def call() -> None:
        model.zero_grad()
        x.grad = None
        model(x).backward(grad)

    return call


def resnet18(images: int, size: int, sparsity: float) -> Callable[[], Any]:
    from resnet18 import convolutions, replace, sparse_resnet18

    model = sparse_resnet18(sparsity).train()
    x, labels = torch.randn(images, 3, size, size), torch.randint(0, 100, (images,))
    seen: dict[nn.Module, Any] = {}
    hooks = [c.register_forward_hook(lambda m, i, o: seen.update({m: i[0].shape})) for c in convolutions(model)]
    model(x)
    for hook in hooks:
        hook.remove()
    replace(model, {conv: sparsify_conv2d_auto(conv, shape) for conv, shape in seen.items()})
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def call() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return call


def prepare() -> tuple[Callable[[], Any], dict[str, Any]]:
    kind, *rest = sys.argv[1:]
    if kind == "stack":
        batch, sparsity, threads, *widths = rest
        torch.set_num_threads(int(threads))
        return stack(int(batch), float(sparsity), [int(w) for w in widths]), {}
    images, size, sparsity, threads = rest
    torch.set_num_threads(int(threads))
    return resnet18(int(images), int(size), float(sparsity)), {}


if __name__ == "__main__":
    serve(prepare)
