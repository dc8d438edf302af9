"""The loss of the model as it would be with other masks, for methods that look before they cut."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rarefy.calibration.batches import evaluation
from rarefy.core.errors import DataError
from rarefy.training.ranks import apart, sum_over_ranks
from rarefy.training.run import Run


def sees_loss(run: Run) -> bool:
    """Whether some rank was given data and a loss to look at."""
    return sum_over_ranks([float(_sees(run))])[0] > 0


def _sees(run: Run) -> bool:
    return bool(run.batches) and run.loss is not None


def require_data(run: Run, where: str) -> None:
    """Refuses a run without the data and the loss that a method has to look at."""
    if not sees_loss(run):
        raise DataError(f"{where}: looks at the loss; give data=batches and loss=lambda model, batch: ...")


def loss_now(run: Run) -> float:
    """Mean loss over the user's batches, those of all ranks, in evaluation mode; every rank has to ask for it."""
    mine = [0.0, 0.0]
    if _sees(run):
        assert run.loss is not None
        with evaluation(run.model), apart(run.model), torch.no_grad():
            mine = [sum(float(run.loss(run.model, batch)) for batch in run.batches), float(len(run.batches))]
    total, count = sum_over_ranks(mine)
    return total / count


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
