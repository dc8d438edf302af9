"""Polar sparsity: neurons for small batches, whose union grows with the batch, and heads, whose share does not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.activations.foreseen_data import firing, seen, speaking
from rarefy.activations.foreseen_layer import ForeseenLayer, Foresight, attach_heads, fitted, hung
from rarefy.activations.head_places import Heads, head_places
from rarefy.activations.hidden import activation_of
from rarefy.activations.predictor import recall, require_fit, top
from rarefy.activations.relufication import require_relu
from rarefy.calibration.batches import as_batches
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.selectors import FeedForward, feed_forwards, select_hidden
from rarefy.selectors.foreseen import Foreseen
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.matrix import weight_of


@method("polar-sparsity", source="Shrestha et al. 2025, arXiv:2505.14884, sections 3 and 4", protocols=("selector",))
@dataclass(frozen=True)
class PolarSparsity:
    """Routes each sequence of a batch to its own heads, and the whole batch to the union of its neurons.

    heads: share of the groups of heads (one group a key-value head) that each sequence leaves out; the first layer
    stays dense. neurons: whether neurons of ReLU models are routed too; recall: of the firing neurons, on the
    calibration text, for which each layer gets the smallest k; full: from this share on, the union is the whole layer.
    """

    heads: float = 0.5
    neurons: bool = True
    recall: float = 0.99
    full: float = 0.9
    rank: int = 64
    steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        density_of(self.heads)
        if not 0.0 < self.recall <= 1.0 or not 0.0 < self.full <= 1.0:
            raise SparsityError(f"polar-sparsity: recall={self.recall} and full={self.full} have to be in (0, 1]")
        if not self.heads and not self.neurons:
            raise SparsityError("polar-sparsity: heads=0 and neurons=False leave nothing to route; give one of them")
        require_fit("polar-sparsity", self.rank, self.steps)

    def apply(self, model: nn.Module, data: Iterable[Any], held_out: Iterable[Any]) -> Foresight:
        """Trains the routers on `data`, measures them on `held_out`, and hangs them on the model.

        ModelError if neurons are asked of a model whose activation is not ReLU.
        """
        if self.neurons:
            require_relu(model, "polar-sparsity")
        train = as_batches(data, method="polar-sparsity", needed=True)
        test = as_batches(held_out, method="polar-sparsity", needed=True, what="held_out")
        layers = {layer.name: layer for layer in feed_forwards(model)} if self.neurons else {}
        heads = {head.name: head for head in head_places(model, grouped=True)[1:]} if self.heads else {}
        if not layers and not heads:
            raise ModelError("polar-sparsity: the first layer's heads stay dense and there is no other; route neurons")
        places = list(layers.values()), list(heads.values())
        known = [seen(model, *places, train), seen(model, *places, test, "held_out")]
        found = [self._neurons(layer, known) for layer in layers.values()]
        found += [self._heads(head, known) for head in heads.values()]

        def attach(made: ForeseenLayer) -> list[RemovableHandle]:
            if made.kind == "neurons":
                return attach_union(layers[made.name], made, self.full)
            return attach_heads(heads[made.name], made, heads[made.name].source)

        return hung(found, attach)

    def _neurons(self, layer: FeedForward, data: Sequence[Mapping[str, Tensor]]) -> ForeseenLayer:
        width = weight_of(layer.down).shape[1]
        labels = [firing(known[f"{layer.name} out"], width) for known in data]
        net = {"rank": self.rank, "steps": self.steps, "seed": self.seed}
        made = fitted(layer.name, "neurons", width, layer.name, data, labels, **net)
        k = smallest(made.predictor(data[0][f"{layer.name} in"]), labels[0], self.recall)
        share = recall(top(made.predictor(data[1][f"{layer.name} in"]), k), labels[1])
        often = labels[0].float().mean(0).expand(len(labels[1]), -1)
        static = recall(top(often, k), labels[1])
        return ForeseenLayer(layer.name, "neurons", k, width, share, static, layer.name, made.predictor)

    def _heads(self, head: Heads, data: Sequence[Mapping[str, Tensor]]) -> ForeseenLayer:
        k = max(1, exact_count(head.groups, density_of(self.heads)))
        labels = [speaking(head, known[f"{head.name} out"], k) for known in data]
        return fitted(head.name, "heads", k, head.name, data, labels, rank=0, steps=self.steps, seed=self.seed)


def smallest(logits: Tensor, label: Tensor, wanted: float) -> int:
    """The smallest k whose k likeliest neurons of each token hold the share `wanted` of those that fire."""
    low, high = 0, logits.shape[1]
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(top(logits, middle), label) >= wanted else (middle + 1, high)
    return low


def attach_union(layer: FeedForward, made: ForeseenLayer, full: float) -> list[RemovableHandle]:
    """Every sequence of a step gets the union of what its sequences need, (batch, tokens, width) over the batch."""
    chosen = Foreseen(Likeliest(made.predictor, made.kept, full=full), made.total)
    first = layer.gate if layer.gate is not None else layer.up
    return [select_hidden(activation_of(layer), chosen), chosen.watch(first)]


def union_of(made: ForeseenLayer, x: Tensor, batch: int, draws: int = 32, seed: int = 0) -> float:
    """Mean share of neurons in the union of `batch` tokens, drawn from inputs x (tokens, width)."""
    generator = torch.Generator().manual_seed(seed)
    kept = top(made.predictor(x), made.kept)
    rows = torch.randint(0, len(x), (draws, batch), generator=generator)
    return float(kept[rows].any(1).float().mean())
