"""Replay: a small buffer of earlier examples, and the loss that keeps them in mind."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError, unknown_name

KINDS = ("er", "der++")


@dataclass
class Reservoir:
    """Up to `size` examples, each of all that were seen with the same chance.

    x, y, logits: what is held, rows first; logits: what the model said when the example came in.
    Source: Vitter 1985, doi:10.1145/3147.3165, algorithm R.
    """

    size: int
    generator: torch.Generator
    seen: int = 0
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    y: Tensor = field(default_factory=lambda: torch.empty(0))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"buffer: {self.size} is not a number of examples; give at least 1")

    def __len__(self) -> int:
        return min(self.seen, self.size)

    def add(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """Offers a batch of examples."""
        if self.seen == 0:
            self.x, self.y, self.logits = (t.new_empty(self.size, *t.shape[1:]) for t in (x, y, logits))
        for row in range(len(x)):
            free = self.seen < self.size
            at = self.seen if free else int(torch.randint(self.seen + 1, (), generator=self.generator))
            self.seen += 1
            if at < self.size:
                self.x[at], self.y[at], self.logits[at] = x[row], y[row], logits[row].detach()

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(x, y, logits) of `count` examples at random, with repeats where there are fewer."""
        at = torch.randint(len(self), (count,), generator=self.generator)
        return self.x[at], self.y[at], self.logits[at]


def replay_loss(
    model: nn.Module, buffer: Reservoir, count: int, kind: str = "er", logit_weight: float = 0.5
) -> Tensor | None:
    """The loss on `count` examples of the buffer; None while it is empty.

    kind: "er": cross-entropy. "der++": cross-entropy of some, plus `logit_weight` times the mean squared distance of
    others' logits from those that were stored.
    Source: Buzzega et al. 2020, arXiv:2004.07211, eq. 6 (DER++); Differs: the weight of its cross-entropy is 1.
    """
    if kind not in KINDS:
        raise unknown_name("replay", kind, KINDS)
    if not len(buffer):
        return None
    x, y, _ = buffer.draw(count)
    loss = F.cross_entropy(model(x), y)
    if kind == "der++":
        x, _, logits = buffer.draw(count)
        loss = loss + logit_weight * F.mse_loss(model(x), logits)
    return loss
