"""Gradients as evidence: one backward pass a batch over the dense model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import Batch, evaluation
from rarefy.core.errors import DataError
from rarefy.core.evidence import Need
from rarefy.core.site import Site

Loss = Callable[[nn.Module, Batch], Tensor]
_PLAIN = frozenset({Need.GRADIENT, Need.SQUARED_GRADIENT})


@contextmanager
def trainable(weights: Sequence[Tensor]) -> Iterator[None]:
    """Gradients for these weights, of a frozen model too."""
    frozen = [weight for weight in weights if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def loss_of(model: nn.Module, batch: Batch, index: int, loss: Loss) -> Tensor:
    """The loss of one batch, checked to be one finite number."""
    value = loss(model, batch)
    if not isinstance(value, Tensor) or value.dim() != 0 or not value.isfinite():
        many = isinstance(value, Tensor) and value.numel() > 1
        shown = f"a tensor {tuple(value.shape)}" if many else repr(value)
        raise DataError(f"data[{index}]: loss gave {shown}, but it has to be one finite number in a tensor")
    return value


def require_loss(loss: Loss | None, needs: frozenset[Need]) -> None:
    """Raises DataError where one of the needs takes a loss and none was given."""
    wanted = [need for need in needs if need.wants_loss]
    if wanted and loss is None:
        passes = "forward passes" if wanted == [Need.ZEROTH_ORDER] else "a backward pass"
        raise DataError(
            f"loss: {', '.join(sorted(n.name for n in wanted))} take {passes}; "
            "give loss=, a function (model, batch) -> scalar"
        )


def of_the_loss(site: Site, grad: Tensor | None, index: int) -> Tensor:
    """The gradient of a site's weight; an error that names the layer where the loss does not depend on it."""
    if grad is None:
        raise DataError(f"{site.name}: the loss of data[{index}] does not depend on this layer; use ignore=")
    return grad


def _gradients(
    model: nn.Module, sites: Sequence[Site], batch: Batch, index: int, loss: Loss
) -> Iterator[tuple[Site, Tensor]]:
    """Each site with the gradient `(out, in)` of the loss of one batch."""
    value = loss_of(model, batch, index, loss)
    grads: Sequence[Tensor | None] = [None] * len(sites)
    if value.requires_grad:
        grads = torch.autograd.grad(value, [site.parameter for site in sites], allow_unused=True)
    for site, grad in zip(sites, grads, strict=True):
        matrix = site.as_matrix(of_the_loss(site, grad, index)).float()
        require_finite(site, matrix, f"the gradient of data[{index}]")
        yield site, matrix


def require_finite(site: Site, grads: Tensor, what: str) -> None:
    """DataError that names the layer."""
    if not grads.isfinite().all():
        raise DataError(f"{site.name}: {what} holds NaN or infinity; scale the loss down, or check it and the data")


def collect_gradients(
    model: nn.Module,
    sites: Sequence[Site],
    batches: Sequence[Batch],
    loss: Loss | None,
    needs: frozenset[Need],
) -> dict[str, dict[Need, Tensor]]:
    """Mean gradient and mean squared gradient of each site over the batches, `(out, in)`; evaluation mode.

    The squares are of batch gradients: give batches of one sample for the empirical Fisher diagonal.
    """
    wanted: list[Need] = [need for need in needs if need in _PLAIN]
    require_loss(loss, frozenset(wanted))
    if not wanted or loss is None:
        return {site.name: {} for site in sites}
    sums = {site.name: {need: torch.zeros(site.shape) for need in wanted} for site in sites}
    with evaluation(model), trainable([site.parameter for site in sites]):
        for i, batch in enumerate(batches):
            for site, matrix in _gradients(model, sites, batch, i, loss):
                if Need.GRADIENT in wanted:
                    sums[site.name][Need.GRADIENT] += matrix / len(batches)
                if Need.SQUARED_GRADIENT in wanted:
                    sums[site.name][Need.SQUARED_GRADIENT] += matrix.square() / len(batches)
    for site in sites:
        for total in sums[site.name].values():
            require_finite(site, total, "the square of its gradients")
    return sums
