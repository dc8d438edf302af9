"""What somebody else has written into a parameter with a dense master behind it, as `model.load_state_dict` does."""

from typing import Protocol, runtime_checkable

import torch

from rarefy.core.errors import ModelError
from rarefy.core.protocols import Transform
from rarefy.core.shapes import Mask, Weight
from rarefy.training.run import Run
from rarefy.training.state import WeightState


@runtime_checkable
class Takes(Protocol):
    """A transform that can take over what was written into its view."""

    def take(self, seen: Weight, changed: Mask, state: WeightState) -> None:
        """Makes the master such that its view is `seen` where that was `changed` and is kept."""


class TakesAsIs:
    """Of transforms whose view of a kept entry is the entry itself."""

    def take(self, seen: Weight, changed: Mask, state: WeightState) -> None:
        """What lies where nothing is kept goes behind the mask, and may come into it at its next choice."""
        assert state.master is not None
        state.master.copy_(torch.where(changed, seen, state.master))


@torch.no_grad()
def take_over(run: Run, transform: Transform) -> list[WeightState]:
    """Masters follow what was written into their parameters since the trainer did; gives their weights.

    Raises ModelError, before anything is changed, where a transform cannot tell the master from its view.
    """
    written = [state for state in run.states if state.written]
    found = []
    for state in written:
        assert state.master is not None
        seen = state.weight.as_matrix(state.weight.parameter.detach()).clone()
        changed = seen != transform.view(state.master, state)
        if bool(changed.any()):
            found.append((state, seen, changed))
    if found and not isinstance(transform, Takes):
        raise ModelError(
            f"step {run.step}: {found[0][0].name} was written to since the last step (model.load_state_dict?), and "
            f"{type(transform).__name__} trains other numbers than the model holds; load the trainer's state of the "
            "same checkpoint after the model's, trainer.load_state_dict(...)"
        )
    for state, seen, changed in found:
        assert isinstance(transform, Takes)
        transform.take(seen, changed, state)
    for state in written:
        state.know()
    return [state for state, _, _ in found]
