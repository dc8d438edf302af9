"""One option a site so that the sum of losses is least within a budget of costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS_A_SITE = 100  # rounding a cost up by one step loses a hundredth of a site's share of the budget
_FEWEST_STEPS = 4000


@dataclass(frozen=True)
class Option:
    """What a site may become. cost: in the unit of the budget, milliseconds say; loss: what it takes from quality."""

    density: float
    cost: float
    loss: float


def knapsack(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option] | None:
    """The options with the least total loss whose costs add up to at most `budget`; None if the cheapest do not fit.

    Dynamic programming over the budget in equal steps, costs rounded up, so that the budget always holds.
    Source: Frantar and Alistarh 2022 (SPDY), arXiv:2201.13096, section 3.1; Sinha and Zoltners 1979 for the
    multiple-choice knapsack. Differs: what each site costs beyond its cheapest option is what is shared out, so that
    the steps are as fine as the choice that is left.
    """
    spare = budget - sum(min(o.cost for o in choices) for choices in options.values())
    if spare < 0:
        return None
    finest = {name: min(choices, key=lambda o: (o.loss, o.cost)) for name, choices in options.items()}
    if sum(o.cost for o in finest.values()) <= budget:
        return finest
    steps = max(_FEWEST_STEPS, _STEPS_A_SITE * len(options))
    best = torch.zeros(steps + 1, dtype=torch.float64)  # least loss by the number of steps that may be spent
    chosen: list[Tensor] = []
    for choices in options.values():
        best, picked = _add(best, choices, spare / steps)
        chosen.append(picked)
    return _trace(options, chosen, spare / steps)


def _steps_of(choices: Sequence[Option], step: float) -> list[int]:
    """Steps that each option costs beyond the cheapest, rounded up; far beyond any budget where steps have no size."""
    least = min(o.cost for o in choices)
    return [0 if o.cost == least else -int(-(o.cost - least) // step) if step > 0 else 2**60 for o in choices]


def _add(best: Tensor, choices: Sequence[Option], step: float) -> tuple[Tensor, Tensor]:
    """Least losses with one more site, and which option each needs."""
    rows = torch.full((len(choices), best.numel()), float("inf"), dtype=torch.float64)
    for row, choice, cost in zip(rows, choices, _steps_of(choices, step), strict=True):
        if cost < best.numel():
            row[cost:] = best[: best.numel() - cost] + choice.loss
    least, picked = rows.min(dim=0)
    return least, picked


def _trace(options: Mapping[str, Sequence[Option]], chosen: Sequence[Tensor], step: float) -> dict[str, Option]:
    """Reads the choices back, from the last site and the whole budget."""
    left = chosen[0].numel() - 1 if chosen else 0
    found: dict[str, Option] = {}
    for (name, choices), picked in zip(reversed(list(options.items())), reversed(chosen), strict=True):
        index = int(picked[left])
        found[name] = choices[index]
        left -= _steps_of(choices, step)[index]
    return {name: found[name] for name in options}
