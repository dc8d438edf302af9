"""The check that a method which spreads the budget itself is free to do so."""

from dataclasses import dataclass

from rarefy.core.errors import SparsityError
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.run import Run


@dataclass(frozen=True)
class FreePattern:
    """Refuses patterns other than the unstructured one: the method's own masks would not keep to them."""

    method: str

    def __call__(self, run: Run) -> None:
        for state in run.states:
            if not isinstance(state.pattern, Layerwise):
                raise SparsityError(
                    f"{self.method}: chooses how many weights each layer keeps, which {state.pattern} does not allow; "
                    "leave the pattern out"
                )
