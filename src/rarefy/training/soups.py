"""Sparse model soups: members that share a mask are averaged without losing it."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.core.errors import SparsityError, unknown_name
from rarefy.core.registry import method
from rarefy.training.cycles import (
    Cycle,
    Train,
    apply,
    average,
    full_masks,
    levels,
    nothing,
    refresh_batch_norm,
    run_cycle,
    snapshot,
    tighter,
)
from rarefy.training.lottery import CycleReport, Ticket


@method(
    "sparse-model-soups",
    role="study",
    source="Zimmer et al. 2024, arXiv:2306.16788, algorithm 1",
    protocols=("schedule",),
)
def sparse_model_soup(
    model: nn.Module,
    train: Train,
    *,
    sparsity: float,
    rounds: int = 3,
    members: int = 3,
    recipe: str = "uniform",
    evaluate: Callable[[nn.Module], float] | None = None,
    batches: Iterable[Any] = (),
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> Ticket:
    """From a trained model: prune, train several copies under that mask, average them, and go on from the average.

    train: `train(model, cycle)` as for `lottery_tickets`; members differ by `cycle.member` and `cycle.seed` (order of
    the data, learning rate, weight decay, as the user likes). recipe: "uniform" averages all; "greedy" adds members
    from the best on as long as `evaluate` (larger = better) does not fall. batches: inputs that renew the statistics of
    batch normalisation of an average. With one member this is iterative magnitude pruning.
    """
    if members < 1:
        raise SparsityError(f"members: {members} is not a number of models; give at least 1")
    if recipe not in ("uniform", "greedy"):
        raise unknown_name("recipe", recipe, ("uniform", "greedy"))
    if recipe == "greedy" and evaluate is None:
        raise SparsityError("recipe: greedy chooses by evaluate=, which is missing")
    kept_batches = list(batches)
    masks = full_masks(model, ignore)
    rewound, reports = snapshot(model), []
    for index, density in enumerate(levels(sparsity, rounds)):
        masks = tighter(model, masks, density, ignore)
        apply(model, masks, ignore)
        rewound, states, steps = snapshot(model), [], 0
        for member in range(members):
            one = copy.deepcopy(model)
            number = seed + index * members + member
            cycle = Cycle(index, member, number, density, 0, masks, one, nothing, tuple(ignore))
            steps = run_cycle(train, cycle)
            states.append(snapshot(one))
        _serve(model, states, recipe, evaluate, kept_batches)
        reports.append(CycleReport(density, steps, None if evaluate is None else evaluate(model)))
    return Ticket(masks, rewound, tuple(reports))


def _serve(
    model: nn.Module,
    states: Sequence[dict[str, Tensor]],
    recipe: str,
    evaluate: Callable[[nn.Module], float] | None,
    batches: Sequence[Any],
) -> None:
    """Puts the soup of the states into the model."""

    def pour(chosen: Sequence[dict[str, Tensor]]) -> None:
        model.load_state_dict(average(chosen))
        if len(chosen) > 1:
            refresh_batch_norm(model, batches)

    if recipe == "uniform" or evaluate is None:
        pour(states)
        return

    def score(chosen: Sequence[dict[str, Tensor]]) -> float:
        pour(chosen)
        return evaluate(model)

    ranked = sorted(states, key=lambda state: -score([state]))
    soup, best = [ranked[0]], score([ranked[0]])
    for state in ranked[1:]:
        found = score([*soup, state])
        if found >= best:
            soup, best = [*soup, state], found
    pour(soup)
