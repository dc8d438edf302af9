"""The densities of a method that comes down in rounds, and the data that each round sees."""

from collections.abc import Sequence
from typing import Any, Literal

Ladder = Literal["geometric", "halving"]


def rung(density: float, step: int, rounds: int, ladder: Ladder) -> float:
    """The density after round `step` (1 to `rounds`).

    geometric: the same share goes in every round. halving: a tenth goes at once, then half of the way that is left to
    the asked sparsity in each round, so that most rounds work near it.
    Source: Benbaki et al. 2023 (CHITA), arXiv:2302.14623, section 3.4 (schedule that grows exponentially to the end).

    >>> [round(rung(0.1, step, 3, "halving"), 3) for step in (1, 2, 3)]
    [0.9, 0.367, 0.1]
    """
    if ladder == "geometric" or rounds == 1 or step == rounds:
        return float(density ** (step / rounds))
    first = max(density, 0.9)
    done = (1 - 0.5 ** (step - 1)) / (1 - 0.5 ** (rounds - 1))
    return first + (density - first) * done


def dealt(batches: Sequence[Any], step: int, rounds: int) -> Sequence[Any]:
    """The batches of a round where each is to see its own: every n-th, n at most as many as there are.

    >>> dealt([0, 1, 2, 3, 4], 2, 2), dealt([0], 2, 2)
    ([1, 3], [0])
    """
    parts = min(rounds, len(batches))
    return batches[(step - 1) % parts :: parts] if parts else batches
