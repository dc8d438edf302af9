"""The dense gradient of a sparse weight, in blocks of rows and only at the steps that ask for it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import grad as nn_grad

from rarefy.core.errors import DataError
from rarefy.ops import Layer


@dataclass
class Watch:
    """What a layer saw in the micro-batches of a step: its inputs and the gradients of its results."""

    seen: list[tuple[Layer, Tensor, Tensor]] = field(default_factory=list)
    _arrived: int = 0

    def note(self, layer: Layer, x: Tensor, grad: Tensor, *, cleared: bool = False) -> None:
        """One backward pass through the layer. cleared: its gradient is empty, so what had arrived was given up."""
        if cleared:
            del self.seen[: self._arrived]
            self._arrived = 0
        self.seen.append((layer, x.detach(), grad.detach()))  # else the graph behind them would stay, indexes and all

    def arrived(self) -> None:
        """What was seen so far has been added to the layer's gradient."""
        self._arrived = len(self.seen)

    def blocks(self, rows_per_block: int) -> Iterator[tuple[range, Tensor]]:
        """(rows, their gradient `(rows, n)`): together the gradient of the dense weight, summed over the step."""
        if not self.seen:
            raise DataError(
                "dense_grad_blocks: no backward pass was watched; call watch() before the step's forward pass"
            )
        if rows_per_block < 1:
            raise DataError(f"dense_grad_blocks: rows_per_block is {rows_per_block}; it must be at least 1")
        layer = self.seen[0][0]
        per_group = layer.out // layer.window.groups
        for start in range(0, layer.out, per_group):
            for first in range(start, start + per_group, rows_per_block):
                rows = range(first, min(first + rows_per_block, start + per_group))
                yield rows, sum_of([_rows_grad(*seen, rows) for seen in self.seen])


class Scale:
    """By which factor a gradient was scaled since its backward pass: least squares over the kept entries."""

    def __init__(self) -> None:
        self._both, self._seen = 0.0, 0.0

    def see(self, seen: Tensor, now: Tensor) -> None:
        """Some entries as they were seen, and as they are."""
        before, after = seen.double(), now.double()
        self._both += float(before @ after)
        self._seen += float(before @ before)

    @property
    def factor(self) -> float:
        """1 where nothing tells."""
        return self._both / self._seen if self._seen > 0.0 else 1.0


def sum_of(parts: list[Tensor]) -> Tensor:
    """Their sum, in the first one's memory."""
    for part in parts[1:]:
        parts[0] += part
    return parts[0]


def _rows_grad(layer: Layer, x: Tensor, grad: Tensor, rows: range) -> Tensor:
    """The gradient `(rows, n)` of some rows of one group."""
    part = grad[:, rows.start : rows.stop]
    if layer.kernel == (1, 1) and layer.image[1:] == (1, 1) and layer.window.groups == 1:
        return part.flatten(1).T @ x.flatten(1)
    w = layer.window
    channels = layer.image[0] // w.groups
    group = rows.start // (layer.out // w.groups)
    inputs = x[:, group * channels : (group + 1) * channels]
    shape = (len(rows), channels, *layer.kernel)
    return nn_grad.conv2d_weight(inputs, shape, part, w.stride, w.padding, w.dilation).flatten(1)
