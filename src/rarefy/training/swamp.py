"""SWAMP: averages of several averaged trainings choose what iterative magnitude pruning keeps."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.training.cycles import (
    Cycle,
    Train,
    apply,
    average,
    full_masks,
    levels,
    refresh_batch_norm,
    run_cycle,
    snapshot,
    tighter,
)
from rarefy.training.lottery import CycleReport, Ticket


class _Mean:
    """A running mean of a model's state, from a step on."""

    def __init__(self, model: nn.Module, first: int) -> None:
        self.model, self.first, self.count = model, first, 0
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def look(self, step: int) -> None:
        if step < self.first:
            return
        self.count += 1
        for name, value in self.model.state_dict().items():
            if not value.is_floating_point() or self.count == 1:
                self.state[name] = value.detach().clone()
            else:
                self.state[name] += (value - self.state[name]) / self.count


@method("swamp", role="study", source="Choi et al. 2023, arXiv:2305.14852, algorithm 1", protocols=("schedule",))
def swamp(
    model: nn.Module,
    train: Train,
    *,
    sparsity: float,
    rounds: int = 5,
    particles: int = 4,
    average_from: int | None = None,
    rewind: int = 0,
    batches: Iterable[Any] = (),
    evaluate: Callable[[nn.Module], float] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> Ticket:
    """Iterative magnitude pruning whose ranking comes from the mean of several trainings, each a mean over its end.

    train: as for `lottery_tickets`. The first training (seed `seed`) is dense and gives the weights of step `rewind`,
    to which every round returns. average_from: the step of a training from which its weights are averaged (None: its
    last weights alone). With one particle and no averaging this is `lottery_tickets`. The paper prunes 20 % a round.
    """
    if particles < 1:
        raise SparsityError(f"particles: {particles} is not a number of models; give at least 1")
    kept_batches, masks = list(batches), full_masks(model, ignore)
    early: list[dict[str, Tensor]] = [snapshot(model)] if rewind == 0 else []
    rewound, reports = snapshot(model), []
    for index, density in enumerate([1.0, *levels(sparsity, rounds)]):
        if index:
            masks = tighter(model, masks, density, ignore)
            model.load_state_dict(early[0])
            apply(model, masks, ignore)
            rewound = snapshot(model)
        states, steps = [], 0
        for member in range(particles if index else 1):
            one = copy.deepcopy(model)
            mean = _Mean(one, average_from or 0)

            def look(step: int, one: nn.Module = one, mean: _Mean = mean, dense: bool = index == 0) -> None:
                if dense and step == rewind:
                    early.append(snapshot(one))
                if average_from is not None:
                    mean.look(step)

            number = seed + index + member * (rounds + 1)
            cycle = Cycle(index, member, number, density, rewind if index else 0, masks, one, look, tuple(ignore))
            steps = run_cycle(train, cycle)
            if average_from is not None and not mean.count:
                raise SparsityError(f"average_from: step {average_from} was never reached in {steps} steps")
            states.append(mean.state if mean.count else snapshot(one))
        if not early:
            raise SparsityError(f"rewind: step {rewind} was never reached, the dense training took {steps} steps")
        model.load_state_dict(average(states))
        if average_from is not None or len(states) > 1:
            refresh_batch_norm(model, kept_batches)
        reports.append(CycleReport(density, steps, None if evaluate is None else evaluate(model)))
    return Ticket(masks, rewound, tuple(reports))
