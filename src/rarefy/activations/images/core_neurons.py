"""Which neurons a prompt fires most, which tokens fire them, and a feed-forward layer of those neurons alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.shapes import Bool, Float, Int
from rarefy.core.topk import exact_count, keep_top
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import FeedForward


def token_core(hidden: Float[Tensor, "tokens neurons"], alpha: float) -> Bool[Tensor, "tokens neurons"]:
    """The core neurons of each token: the largest share `alpha` of its positive activations, rounded up."""
    positive = hidden > 0
    counts = (positive.sum(1, keepdim=True) * alpha - 1e-6).ceil()
    order = hidden.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(hidden.shape[1]).to(order).expand_as(order))
    return positive & (rank < counts)


def sentence_core(core: Bool[Tensor, "tokens neurons"], beta: float) -> Bool[Tensor, "neurons"]:
    """The share `beta` of the neurons that lie in the most tokens' cores, ties to the first."""
    counts = core.sum(0, keepdim=True).float()
    return keep_top(counts, exact_count(counts.shape[1], beta))[0]


def above_the_knee(scores: Float[Tensor, "tokens"]) -> Bool[Tensor, "tokens"]:
    """The tokens before the knee of the falling scores: the point farthest from the chord between first and last.

    A knee that bulges upwards is itself the last of the high ones and stays; equal scores stay together, and if all
    are equal nothing is cut.
    """
    falling = scores.sort(descending=True).values
    chord = torch.linspace(float(falling[0]), float(falling[-1]), len(falling), device=scores.device)
    distance = falling - chord  # along one line the distance to it is this times a constant
    if distance.abs().max() <= 1e-6 * (1.0 + float(falling[0].abs())):
        return torch.ones_like(scores, dtype=torch.bool) if falling[0] == falling[-1] else scores >= falling[-1]
    knee = int(distance.abs().argmax())
    return scores >= falling[knee] if distance[knee] > 0 else scores > falling[knee]


def core_tokens(core: Tensor, sentence: Tensor, image: Bool[Tensor, "tokens"]) -> Bool[Tensor, "tokens"]:
    """True for all text tokens, and for the image tokens above the knee of |core(token) and sentence core|."""
    kept = ~image
    if image.any():
        kept[image] = above_the_knee((core & sentence).sum(1)[image].float())
    return kept


@contextmanager
def narrowed(model: nn.Module, cores: Mapping[str, tuple[FeedForward, Tensor]]) -> Iterator[None]:
    """While open, feed-forward layers hold only the rows and columns of some neurons, gathered into smaller matrices.

    cores: {name of the layer: (the layer, indices of the neurons)}. The model's own modules come back afterwards.
    """
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    names = {module: name for name, module in model.named_modules()}
    try:
        for layer, index in cores.values():
            for module, small in _gathered(layer, index):
                parent, _, child = names[module].rpartition(".")
                owner = model.get_submodule(parent)
                owner._modules[child] = small
                swapped.append((owner, child, module))
        yield
    finally:
        for owner, child, module in swapped:
            owner._modules[child] = module


def _gathered(layer: FeedForward, index: Int[Tensor, "kept"]) -> Iterator[tuple[nn.Module, nn.Linear]]:
    for module in (layer.gate, layer.up):
        if module is not None:
            bias: Any = module.bias
            yield module, _linear(weight_of(module)[index], None if bias is None else bias.detach()[index])
    down_bias: Any = layer.down.bias
    yield layer.down, _linear(weight_of(layer.down)[:, index], None if down_bias is None else down_bias.detach())


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made
