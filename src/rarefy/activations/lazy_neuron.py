"""Top-k feed-forward layers: the k largest neurons of every token, after training or while it goes on."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.activations.hidden import activation_of, attach_hidden
from rarefy.activations.inputs import require_kept
from rarefy.activations.job import Job, Placed
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.top_k import TopK


@method(
    "lazy-neuron-topk",
    role="selector",
    protocols=("selector", "method"),
    source="Li et al. 2023, arXiv:2210.06313, section 4",
)
@dataclass(frozen=True)
class LazyNeuron:
    """Keeps the k neurons of each token with the largest |activation|; gradients flow through those that are kept.

    k: neurons a token, the same in all layers; None: by the sparsity asked. The model may be trained on as it is then.
    Columns of down are saved, and rows of up where the layer is gated.
    """

    k: int | None = None

    def __call__(self, job: Job) -> list[Placed]:
        placed = []
        for layer in job.layers:
            width = weight_of(layer.down).shape[1]
            if self.k is None:
                require_kept(job.sparsity, width, layer.name, "neurons")
            k = exact_count(width, 1.0 - job.sparsity) if self.k is None else self.k
            if k > width:
                raise SparsityError(f"lazy-neuron-topk: k={k}, but {layer.name} has {width} neurons")
            activation_of(layer)
            placed += attach_hidden([layer], {layer.name: TopK(k)}, 1.0 - k / width)
        return placed


class TopKReLU(nn.Module):
    """ReLU that keeps the k largest entries of the last axis, ties to the lower index; for models made from scratch.

    >>> TopKReLU(1)(torch.tensor([[0.5, 2.0, -3.0]]))
    tensor([[0., 2., 0.]])
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        return positive * TopK(self.k).mask(positive.detach())

    def extra_repr(self) -> str:
        return f"k={self.k}"
