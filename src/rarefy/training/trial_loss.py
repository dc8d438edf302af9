"""The loss of the model as it would be with other masks, for methods that look before they cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rarefy.calibration.batches import evaluation
from rarefy.core.errors import DataError
from rarefy.training.run import Run


def require_data(run: Run, where: str) -> None:
    """Refuses a run without the data and the loss that a method has to look at."""
    if not run.batches or run.loss is None:
        raise DataError(f"{where}: looks at the loss; give data=batches and loss=lambda model, batch: ...")


def loss_now(run: Run) -> float:
    """Mean loss over the user's batches in evaluation mode."""
    assert run.loss is not None
    with evaluation(run.model), torch.no_grad():
        return sum(float(run.loss(run.model, batch)) for batch in run.batches) / len(run.batches)


def loss_with(run: Run, masks: Sequence[Tensor]) -> float:
    """`loss_now` with the weights under other masks; the weights are put back bit for bit."""
    before = [state.weight.parameter.detach().clone() for state in run.states]
    try:
        for state, mask in zip(run.states, masks, strict=True):
            state.put(state.weight.as_matrix(state.weight.parameter.detach()) * mask)
        return loss_now(run)
    finally:
        with torch.no_grad():
            for state, value in zip(run.states, before, strict=True):
                state.weight.parameter.copy_(value)
