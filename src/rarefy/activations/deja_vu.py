"""Deja Vu: small nets foresee which neurons and heads a token needs, so that the others are never computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.activations.foreseen_data import firing, seen, sources, speaking
from rarefy.activations.foreseen_layer import ForeseenLayer, Foresight, attach_heads, attach_neurons, fitted, hung
from rarefy.activations.head_places import Heads, head_places
from rarefy.activations.predictor import require_fit
from rarefy.calibration.batches import as_batches
from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.selectors import FeedForward, feed_forwards
from rarefy.selectors.matrix import weight_of


@method("deja-vu", source="Liu et al. 2023, arXiv:2310.17157, sections 4.1 to 4.3", protocols=("selector",))
@dataclass(frozen=True)
class DejaVu:
    """Foresees the neurons and heads of each token from the input of its block, and leaves the others out.

    sparsity: share of a layer's neurons left out, heads: share of its heads left out (0: all are kept and no predictor
    is trained); rank: of the neurons' predictors, head predictors are linear; lookahead: a layer's choice is made from
    the input of the layer of its kind before it, so that it can be ready in time.
    Keys and values of every token are computed whether or not a head is chosen, so later tokens see all of them.
    """

    sparsity: float = 0.5
    heads: float = 0.0
    rank: int = 64
    steps: int = 300
    lookahead: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        density_of(self.sparsity)
        density_of(self.heads)
        if not self.sparsity and not self.heads:
            raise SparsityError("deja-vu: sparsity=0 and heads=0 leave nothing to foresee; give one a share")
        require_fit("deja-vu", self.rank, self.steps)

    def apply(self, model: nn.Module, data: Iterable[Any], held_out: Iterable[Any]) -> Foresight:
        """Trains on the tokens of `data`, measures recall on `held_out`, and hangs the selection on the model."""
        train = as_batches(data, method="deja-vu", needed=True)
        test = as_batches(held_out, method="deja-vu", needed=True, what="held_out")
        layers = {layer.name: layer for layer in feed_forwards(model)} if self.sparsity else {}
        heads = {head.name: head for head in head_places(model)} if self.heads else {}
        places = list(layers.values()), list(heads.values())
        known = [seen(model, *places, train), seen(model, *places, test, "held_out")]
        found = [self._neurons(layers[n], source, known) for n, source in sources(list(layers), self.lookahead).items()]
        found += [self._heads(heads[n], source, known) for n, source in sources(list(heads), self.lookahead).items()]

        def attach(made: ForeseenLayer) -> list[RemovableHandle]:
            if made.kind == "neurons":
                return attach_neurons(layers[made.name], made, layers[made.source].up)
            return attach_heads(heads[made.name], made, heads[made.source].source)

        return hung(found, attach)

    def _neurons(self, layer: FeedForward, source: str, data: Sequence[Mapping[str, Tensor]]) -> ForeseenLayer:
        k = exact_count(weight_of(layer.down).shape[1], density_of(self.sparsity))
        labels = [firing(known[f"{layer.name} out"], k) for known in data]
        net = {"rank": self.rank, "steps": self.steps, "seed": self.seed}
        return fitted(layer.name, "neurons", k, source, data, labels, **net)

    def _heads(self, head: Heads, source: str, data: Sequence[Mapping[str, Tensor]]) -> ForeseenLayer:
        k = max(1, exact_count(head.groups, density_of(self.heads)))
        labels = [speaking(head, known[f"{head.name} out"], k) for known in data]
        return fitted(head.name, "heads", k, source, data, labels, rank=0, steps=self.steps, seed=self.seed)
