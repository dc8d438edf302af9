"""Visual reprogramming: a frozen net does another task with a trained border around its images and renamed classes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError

AsInput = Callable[[Tensor], Tensor]


class Reprogrammed(nn.Module):
    """The net with images put into the middle of a trained pattern: (samples, channels, h, w) -> (samples, targets).

    size: height and width of the net's input; inner: of the image in the middle; mapping: the source class that stands
    for each target class. as_input: from (samples, channels, *size) to what the net takes (such as flat rows).
    """

    border: Tensor
    mapping: Tensor

    def __init__(
        self,
        net: nn.Module,
        channels: int,
        size: tuple[int, int],
        inner: tuple[int, int],
        targets: int,
        as_input: AsInput,
    ) -> None:
        super().__init__()
        if inner[0] > size[0] or inner[1] > size[1] or inner == size:
            raise DataError(f"reprogramming: an image of {inner} leaves no border in an input of {size}")
        self.net, self.size, self.inner, self.as_input = net, size, inner, as_input
        border = torch.ones(1, channels, *size, dtype=torch.bool)
        self.top, self.left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
        border[..., self.top : self.top + inner[0], self.left : self.left + inner[1]] = False
        self.register_buffer("border", border)
        self.register_buffer("mapping", torch.arange(targets))
        self.pattern = nn.Parameter(torch.zeros(1, channels, *size))

    def source_logits(self, x: Tensor) -> Tensor:
        """Logits over the classes that the net was made for."""
        small = F.interpolate(x, size=self.inner, mode="bilinear", align_corners=False)
        down, right = self.size[0] - self.inner[0] - self.top, self.size[1] - self.inner[1] - self.left
        placed = F.pad(small, (self.left, right, self.top, down))
        found: Tensor = self.net(self.as_input(placed + self.pattern * self.border))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.source_logits(x)[:, self.mapping]


def label_map(logits: Tensor, labels: Tensor, targets: int) -> Tensor:
    """The source class for each target class, one to one: the pairs that occur most often first.

    logits: (samples, source classes); labels: (samples,) target classes. How often a pair occurs counts as the share of
    the target class, so that large classes do not choose first.
    Source: Chen et al. 2023, arXiv:2211.11635, eq. 3 (iterative label mapping).
    """
    if targets > logits.shape[1]:
        raise DataError(
            f"label_map: {targets} target classes cannot have {logits.shape[1]} source classes of their own"
        )
    counts = torch.zeros(targets, logits.shape[1], dtype=torch.float64)
    counts.index_put_((labels, logits.argmax(1)), torch.ones(len(labels), dtype=torch.float64), accumulate=True)
    counts /= counts.sum(1, keepdim=True).clamp_min(1)
    found = torch.full((targets,), -1)
    for _ in range(targets):
        target, source = divmod(int(counts.argmax()), counts.shape[1])
        found[target] = source
        counts[target], counts[:, source] = -1.0, -1.0
    return found


@dataclass(frozen=True)
class ReprogramSettings:
    """rate: of Adam on the pattern; renew: whether the classes are mapped anew before every epoch (else once)."""

    epochs: int = 20
    rate: float = 5e-2
    batch: int = 64
    renew: bool = True


def reprogram(model: Reprogrammed, x: Tensor, y: Tensor, settings: ReprogramSettings, seed: int = 0) -> None:
    """Trains the pattern, in place; nothing of the net changes, not even its gradients."""
    model.eval()
    optimizer = torch.optim.Adam([model.pattern], lr=settings.rate)
    order = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        if epoch == 0 or settings.renew:
            with torch.no_grad():
                logits = torch.cat([model.source_logits(part) for part in x.split(256)])
            model.mapping.copy_(label_map(logits, y, len(model.mapping)))
        for at in torch.randperm(len(x), generator=order).split(settings.batch):
            loss = F.cross_entropy(model(x[at]), y[at])
            (model.pattern.grad,) = torch.autograd.grad(loss, [model.pattern])
            optimizer.step()
