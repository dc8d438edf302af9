"""Dynamic data removal: examples that are always right leave the training, a few at a time."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.errors import SparsityError
from rarefy.core.topk import exact_count, keep_top


@dataclass
class ExampleRemoval:
    """Which of `total` examples are still trained on.

    rate: the share of all that leaves in the end; stages: over how many equal removals; wrong: how often each example
    was misclassified since the beginning; active: indices that are left.
    Source: Wang et al. 2022 (SparCL), arXiv:2209.09476, section 3.2.
    """

    total: int
    rate: float
    stages: int
    stage: int = 0
    wrong: Tensor = field(init=False)
    active: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate < 1.0 or self.stages < 1:
            raise SparsityError(
                f"removal: rate {self.rate} in {self.stages} stages; give a share in [0, 1) and at least one stage"
            )
        self.wrong = torch.zeros(self.total, dtype=torch.long)
        self.active = torch.arange(self.total)

    def count(self, index: Tensor, mistaken: Tensor) -> None:
        """Counts the mistakes (bool) made on the examples `index`."""
        self.wrong[index[mistaken]] += 1

    def remove(self) -> Tensor:
        """Ends a stage: the examples with the fewest mistakes leave, of equals the later ones; gives their indices."""
        if self.stage >= self.stages:
            return self.active[:0]
        self.stage += 1
        left = self.total - exact_count(self.total, self.rate * self.stage / self.stages)
        hardest = keep_top(self.wrong[self.active][None].float(), left)[0]
        gone, self.active = self.active[~hardest], self.active[hardest]
        return gone
