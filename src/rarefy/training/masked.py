"""The plain transform: dropped entries are zero, get no gradient and are not there for the optimizer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from rarefy.core.shapes import Weight


@dataclass(frozen=True)
class Masked:
    """The parameter is the sparse weight itself: `w * mask` in the forward pass, `g * mask` for the optimizer.

    wants_dense_grad: with True the optimizer sees the gradients of dropped entries too, so that its memory of them
    lives on (momentum of zero weights), while the weights themselves stay zero.
    """

    wants_dense_grad: bool = False
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = False

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        """In place, as `on_step`: both tensors are the parameter's own."""
        return grad if self.wants_dense_grad else grad.mul_(state.mask)

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight.mul_(state.mask)
