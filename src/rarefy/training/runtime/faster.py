"""Whether a layer trains faster sparsely than densely: measured, not counted."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from rarefy.core.timing import interleaved
from rarefy.ops import Layer
from rarefy.training.runtime.function import product
from rarefy.training.runtime.topology import Topology


@dataclass(frozen=True)
class Speed:
    """Milliseconds of forward and backward together: medians of interleaved rounds."""

    dense_ms: float
    sparse_ms: float

    @property
    def ratio(self) -> float:
        """How many times faster the sparse layer is."""
        return self.dense_ms / self.sparse_ms


def faster(layer: Layer, images: int, density: float, *, input_grad: bool = True, rounds: int = 5) -> Speed:
    """Times a layer of this shape, dense and with random zeros, forward and backward, on the threads torch uses now.

    images: of a batch, or rows of a linear layer's; input_grad: whether x needs a gradient (a first layer's does not).
    Each question is measured once in a process, densities to a hundredth of their size.

    >>> faster(Layer(256, (256, 1, 1)), images=64, density=0.02).ratio > 0
    True
    """
    rounded = float(f"{density:.2g}")
    return _measure(layer, images, rounded, input_grad, rounds, torch.get_num_threads())


@cache
def _measure(layer: Layer, images: int, density: float, input_grad: bool, rounds: int, threads: int) -> Speed:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(layer.out, layer.width, generator=generator) < density
    shape = (layer.out, layer.image[0] // layer.window.groups, *layer.kernel)
    weight = torch.randn(shape, generator=generator).requires_grad_()
    x = torch.randn(images, *layer.image, generator=generator).requires_grad_(input_grad)
    grad = torch.randn(images, *layer.out_image, generator=generator)
    topology = Topology(mask)
    values = topology.gather(weight.detach()).requires_grad_()
    calls: dict[str, Callable[[], None]] = {
        "dense": _call(lambda: _dense(layer, x, weight), grad, [x, weight]),
        "sparse": _call(lambda: product(x, values, None, topology, layer), grad, [x, values]),
    }
    with torch.enable_grad():
        times = interleaved(calls, rounds=rounds, warmup=1, seconds=2.0)
    return Speed(times.median("dense"), times.median("sparse"))


def _dense(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    if layer.kernel == (1, 1) and layer.image[1:] == (1, 1) and layer.window.groups == 1:
        return nn.functional.linear(x.flatten(1), weight.flatten(1))
    w = layer.window
    return nn.functional.conv2d(x, weight, None, w.stride, w.padding, w.dilation, w.groups)


def _call(forward: Callable[[], Tensor], grad: Tensor, leaves: list[Tensor]) -> Callable[[], None]:
    def call() -> None:
        for leaf in leaves:
            leaf.grad = None
        y = forward()
        y.backward(grad.view(y.shape))

    return call
