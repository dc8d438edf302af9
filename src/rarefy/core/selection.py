"""The second noun: a support that depends on the token."""

from dataclasses import dataclass

from torch import Tensor

from rarefy.core.shapes import Float, Int


@dataclass(frozen=True)
class Selection:
    """Which few of `size` candidates (neurons, experts, keys, latents) each token uses.

    index: `(tokens, k)`, entries in `[0, size)`; value: `(tokens, k)`, their weights.
    """

    index: Int[Tensor, "tokens k"]
    value: Float[Tensor, "tokens k"]
    size: int
