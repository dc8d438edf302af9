"""Q-Sparse: every linear layer reads the k largest inputs of a token, from the first step of training on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from rarefy.activations.inputs import require_kept
from rarefy.activations.relufication import SquaredReLU
from rarefy.activations.straight_through import StraightThrough, train_through
from rarefy.activations.swap import swap_activations
from rarefy.activations.ternary import make_ternary, settle_ternary
from rarefy.core.calls import take_off
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, ShapeError, SparsityError
from rarefy.core.registry import method
from rarefy.core.topk import exact_count
from rarefy.selectors import TopK, feed_forwards, input_selector, select_inputs
from rarefy.selectors.attach import Masking
from rarefy.selectors.block_top_k import BlockTopK
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.readers import readers


@method(
    "q-sparse",
    source="Wang et al. 2024, arXiv:2407.10969, eq. 1 to 7; Block Q-Sparse: section 3.2",
    protocols=("selector",),
)
@dataclass(frozen=True)
class QSparse:
    """y = (x * m) W^T with m the top k of |x|, gradients straight through: dx = dy W, dW = dy^T (x * m).

    sparsity: of the inputs of every projection; block: choose within every `block` consecutive inputs (an N:M pattern
    of activations, the same share in each) instead of the whole token; squared: gated layers use relu(gate)^2 * up;
    ternary: BitNet b1.58's weights and int8 activations in training.
    Differs: no L2 normalisation of the selected input; models have norms before their projections.
    """

    sparsity: float = 0.5
    block: int | None = None
    squared: bool = True
    ternary: bool = False

    def __post_init__(self) -> None:
        density_of(self.sparsity)
        if self.block is not None and self.block < 1:
            raise SparsityError(f"q-sparse: block={self.block} inputs; give 1 or more, or None for the whole token")

    def selector(self, width: int, name: str = "layer") -> Masking:
        """The selector of a layer with `width` inputs."""
        density = density_of(self.sparsity)
        require_kept(self.sparsity, self.block or width, name)
        if self.block is None:
            return TopK(exact_count(width, density))
        if width % self.block:
            raise ShapeError(f"q-sparse: {name} has {width} inputs, no multiple of block={self.block}")
        return BlockTopK(exact_count(self.block, density), self.block)

    def apply(self, model: nn.Module, layers: Sequence[str] | None = None) -> list[str]:
        """Makes the projections of a transformer (or the linear `layers` named) sparse, in place; train on after it."""
        found = readers(model, layers)
        chosen = {name: self.selector(weight_of(module).shape[1], name) for name, module in found.items()}
        taken = [name for name, module in found.items() if input_selector(module) is not None]
        if taken:
            raise ModelError(f"q-sparse: {taken[0]} has a selector already; call detach(model) first")
        if layers is None and self.squared and any(layer.kind == "gated" for layer in feed_forwards(model)):
            swap_activations(model, lambda layer: SquaredReLU(), "relu2")
        for name, module in found.items():
            select_inputs(module, chosen[name])
            train_through(module, 127 if self.ternary else None)
            if self.ternary:
                make_ternary(module)
        return list(found)


def settle(model: nn.Module) -> int:
    """After training: plain weights and plain selectors of inputs, which the engine reads; gives how many.

    With ternary=True the ternary values are written into the weights; activations are no longer rounded to int8, which
    is the engine's business.
    """
    settle_ternary(model)
    count = 0
    for module in model.modules():
        for hook in take_off(module, lambda hook: isinstance(hook, StraightThrough)):
            select_inputs(module, hook.selector)
            count += 1
    return count
