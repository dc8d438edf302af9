"""A Markov chain of zeros and ones: what the neighbours of an entry say about it."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Float


@dataclass(frozen=True)
class Chain:
    """Entries that are on (1) or off (0), one after the other.

    density: share of ones in the long run; death: chance that a zero follows a one, so runs of ones are 1 / death long
    on average. The chance that a one follows a zero is `birth` = death * density / (1 - density). With
    death = 1 - density the entries are independent.
    """

    density: float
    death: float

    def __post_init__(self) -> None:
        if not 0.0 < self.density < 1.0 or not 0.0 < self.death <= 1.0 or self.birth > 1.0 + 1e-12:
            raise SparsityError(
                f"Chain: density={self.density}, death={self.death}; give a density and a death between 0 and 1 such "
                "that death * density / (1 - density) <= 1"
            )

    @property
    def birth(self) -> float:
        return self.death * self.density / (1.0 - self.density)

    def extrinsic(self, evidence: Float[Tensor, "chains n"]) -> Float[Tensor, "chains n"]:
        """Log odds of each entry by the chain and the evidence of all others; plus the evidence they are the marginals.

        evidence: log p(seen | 1) - log p(seen | 0) of each entry. Sum-product, forward and backward:
        f_{i+1} = log((1 - death) e^x + birth) - log(death e^x + 1 - birth) with x = f_i + evidence_i, f_0 the prior,
        b_{i-1} = log((1 - death) e^x + death) - log(birth e^x + 1 - birth) with x = b_i + evidence_i, b_{n-1} = 0.
        """
        stay, birth, death, calm = _logs(1.0 - self.death, self.birth, self.death, 1.0 - self.birth)
        n = evidence.shape[1]
        forward, backward = torch.empty_like(evidence), torch.zeros_like(evidence)
        forward[:, 0] = math.log(self.density / (1.0 - self.density))
        for i in range(1, n):
            x = forward[:, i - 1] + evidence[:, i - 1]
            forward[:, i] = _sum(x + stay, birth) - _sum(x + death, calm)
        for i in range(n - 2, -1, -1):
            x = backward[:, i + 1] + evidence[:, i + 1]
            backward[:, i] = _sum(x + stay, death) - _sum(x + birth, calm)
        return forward + backward


def _logs(*chances: float) -> list[float]:
    return [math.log(max(1e-300, chance)) for chance in chances]


def _sum(x: Tensor, other: float) -> Tensor:
    return torch.logaddexp(x, x.new_tensor(other))
