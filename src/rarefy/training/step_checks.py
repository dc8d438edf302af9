"""What a step of sparse training refuses before it has changed anything."""

from collections.abc import Sequence

from torch import Tensor

from rarefy.core.errors import DataError, ModelError
from rarefy.training.run import Run


def require_gradients(run: Run) -> None:
    """Raises ModelError for a weight that has left the model, DataError where gradients are missing or not finite."""
    _require_in_model(run)
    trained = [state for state in run.states if state.weight.parameter.requires_grad]
    if trained and all(state.weight.parameter.grad is None for state in trained):
        raise DataError(
            f"step {run.step}: no trained weight has a gradient; call loss.backward() before trainer.step(), "
            "and zero_grad() only after it"
        )
    for group in run.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not _is_finite(parameter.grad):
                name = next((name for name, p in run.model.named_parameters() if p is parameter), "a parameter")
                raise DataError(
                    f"step {run.step}: the gradient of {name} is not finite; "
                    "nothing was changed; lower the learning rate, clip, or skip this batch (zero_grad())"
                )


def require_finite_penalty(run: Run, pushes: Sequence[Tensor | None], method: str) -> None:
    """Raises DataError where the gradient of the method's penalty is not finite; pushes: of each weight."""
    for state, push in zip(run.states, pushes, strict=True):
        if push is not None and not _is_finite(push):
            raise DataError(
                f"step {run.step}: the gradient of the penalty of {method} at {state.name} is not finite; nothing was "
                "changed; give the method's options other numbers, or lower the learning rate"
            )


def _is_finite(grad: Tensor) -> bool:
    """A sum that is finite has only finite parts; one that is not may have overflowed."""
    return bool(grad.sum().isfinite()) or bool(grad.isfinite().all())


def _require_in_model(run: Run) -> None:
    """Weights without a gradient may have left the model: what came in their place is in no mask."""
    idle = [state for state in run.states if state.weight.parameter.grad is None]
    here = {id(parameter) for parameter in run.model.parameters()} if idle else set()
    for state in idle:
        if id(state.weight.parameter) not in here:
            raise ModelError(
                f"step {run.step}: {state.name} is not in the model any more: the layer was replaced after "
                "sparse training began, and what took its place is dense; replace layers first, then make the "
                "optimizer and the trainer anew (trainer.detach() ends this one)"
            )
