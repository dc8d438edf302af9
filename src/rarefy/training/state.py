"""What the trainer knows of one weight."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rarefy.core.protocols import Pattern
from rarefy.core.shapes import Mask, Weight
from rarefy.core.site import Site


@dataclass
class WeightState:
    """The state of one weight; all tensors have its shape `(out, in)`.

    density: the share it has to keep, `asked` at first by the allocation, later what the method makes of it; mask: what
    it keeps now; master: the dense weight that the optimizer trains where the forward pass sees only a view of it, else
    None (the parameter is the weight); extra: what the method's parts remember (counts, averages), saved with the
    checkpoint; explored: whether an entry was ever kept (in-time over-parameterisation); step, total_steps: of the run;
    first_sd: standard deviation of the weight before training.
    """

    weight: Site
    pattern: Pattern
    density: float
    mask: Mask
    master: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    explored: Tensor | None = None
    step: int = 0
    total_steps: int | None = None
    asked: float = field(init=False)
    first_sd: float = field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.density
        self.first_sd = float(self.value().float().std(correction=0))

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def count(self) -> int:
        """How many entries the asked density keeps."""
        rows, n = self.weight.shape
        return self.pattern.count(rows, n, self.density)

    @property
    def kept(self) -> int:
        return int(self.mask.sum())

    def value(self) -> Weight:
        """The weight that is trained, `(out, in)`: the dense master where there is one. A view, not a copy."""
        if self.master is not None:
            return self.master
        return self.weight.as_matrix(self.weight.parameter.detach())

    def grad(self) -> Weight | None:
        """The gradient of the loss with respect to what the forward pass saw, `(out, in)`, dropped entries too."""
        found = self.weight.parameter.grad
        return None if found is None else self.weight.as_matrix(found)

    def put(self, matrix: Tensor) -> None:
        """Writes `(out, in)` into the parameter, in place."""
        with torch.no_grad():
            self.weight.parameter.copy_(self.weight.as_parameter(matrix))
