"""Methods that find the masks of all layers together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from rarefy.core.protocols import Pattern
from rarefy.core.shapes import Mask
from rarefy.core.site import Site


@runtime_checkable
class MaskLearner(Protocol):
    """Finds a mask for each site from the loss of the whole model; the weights are left as they are."""

    def __call__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        patterns: Mapping[str, Pattern],
        batches: Sequence[Any],
        loss: Callable[[nn.Module, Any], Tensor],
        seed: int,
    ) -> dict[str, Mask]: ...
