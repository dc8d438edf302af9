"""Lottery tickets: iterative magnitude pruning with rewinding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.training.cycles import Cycle, Train, apply, full_masks, levels, nothing, run_cycle, snapshot, tighter


@dataclass(frozen=True)
class CycleReport:
    """One round: its density, the steps of each of its trainings, and what `evaluate` said of the model after it."""

    density: float
    steps: int
    score: float | None


@dataclass(frozen=True)
class Ticket:
    """masks: of the last round; rewound: the state (of the whole model) from which the last round was trained."""

    masks: dict[str, Mask]
    rewound: dict[str, Tensor]
    rounds: tuple[CycleReport, ...]


@method(
    "lottery-tickets",
    role="study",
    source="Frankle and Carbin 2019, arXiv:1803.03635; rewinding: Frankle et al. 2020, arXiv:1912.05671",
    protocols=("schedule",),
)
def lottery_tickets(
    model: nn.Module,
    train: Train,
    *,
    sparsity: float,
    rounds: int = 5,
    rewind: int = 0,
    ignore: Sequence[str] = (),
    evaluate: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
) -> Ticket:
    """Trains, prunes the smallest weights of the model, puts the rest back to where it was early on; repeats.

    train: `train(model, cycle)` trains the model in place from its present weights and keeps the cycle's masks by
    `trainer = cycle.attach(optimizer)`; after rewinding its schedule begins at `cycle.first_step`. rounds: of pruning,
    each by the same share, so that the last has the asked sparsity; the first training is dense. rewind: the step of
    the dense training whose weights are put back (0: the initial ones). evaluate: a score of the model after each
    training, for the report. The model ends as the trained ticket; `rewound` is what it was trained from.
    """
    masks = full_masks(model, ignore)
    early = snapshot(model)
    saved: list[dict[str, Tensor]] = [early] if rewind == 0 else []

    def look(step: int) -> None:
        if step == rewind:
            saved.append(snapshot(model))

    reports = []
    for index, density in enumerate([1.0, *levels(sparsity, rounds)]):
        if index:
            masks = tighter(model, masks, density, ignore)
            model.load_state_dict(saved[0])
            apply(model, masks, ignore)
            early = snapshot(model)
        first = rewind if index else 0
        cycle = Cycle(index, 0, seed + index, density, first, masks, model, nothing if index else look, tuple(ignore))
        steps = run_cycle(train, cycle)
        if not saved:
            raise SparsityError(f"rewind: step {rewind} was never reached, the dense training took {steps} steps")
        reports.append(CycleReport(density, steps, None if evaluate is None else evaluate(model)))
    return Ticket(masks, early, tuple(reports))
