"""SRigL: RigL with constant fan-in and ablated neurons."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from rarefy.allocations.erdos_renyi import ErdosRenyi
from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import method
from rarefy.core.shapes import Mask
from rarefy.core.topk import exact_count, keep_top
from rarefy.patterns.fanin import FanIn
from rarefy.schedules.cosine import Cosine
from rarefy.training.clock import Clock
from rarefy.training.method import SparseMethod
from rarefy.training.offers import ByGradient, watched
from rarefy.training.packed_change import FIRST
from rarefy.training.run import Run
from rarefy.training.starts import RandomStart
from rarefy.training.state import WeightState
from rarefy.training.streamed_growth import exchange_rows, salient


@dataclass(frozen=True)
class ConstantFanIn:
    """Drops and grows such that every neuron that is left has equally many inputs.

    With K the number to drop in a layer of n weights: salient are its n - K largest weights and the K largest gradients
    of entries that are not kept. Neurons with fewer than max(1, gamma * fan-in) salient entries are ablated for good,
    and the others share the layer's budget; as many stay as can hold it.
    Source: Lasby et al. 2023, arXiv:2305.02299, section 3.1.
    Differs: the last weight of the model loses no neuron, since its rows are the outputs.
    """

    clock: Clock = field(default_factory=Clock)
    initial: float = 0.3
    gamma: float = 0.3
    fraction: Schedule | None = None
    instead: bool = True
    needs_end: ClassVar[bool] = True

    @property
    def exchanges(self) -> Clock:
        return self.clock

    def before(self, run: Run) -> bool:
        if not self.clock.due(run, "srigl", run.step):
            return False
        last = max(1, round(self.clock.end * run.end("srigl")))
        zeta = (self.fraction or Cosine(self.initial, 0.0, last))(run.step)
        for state in run.moving:
            ablate = state is not run.states[-1]
            if 0 < state.kept < state.size and watched(state):
                self._stream(run, state, zeta, ablate=ablate)
            else:
                with run.opened(state):
                    grad = state.grad()
                    if grad is not None and 0 < state.kept < state.size:
                        run.set_mask(state, self.choose(state, grad.abs().float(), zeta, ablate=ablate))
            if self.instead:
                state.weight.parameter.grad = None  # no step follows that looks at it
        return self.instead

    def wants_gradient(self, run: Run) -> bool:
        return self.clock.due(run, "srigl", run.step)

    def after(self, run: Run) -> None:
        """Masks change ahead of the step."""

    def choose(self, state: WeightState, grad: Tensor, zeta: float, *, ablate: bool) -> Mask:
        """The next mask of a layer."""
        weight, mask = state.value().float().abs(), state.mask
        drop = exact_count(state.kept, zeta)
        survivors = _top(weight, mask, state.kept - drop)
        best = survivors | _top(grad, ~mask, drop)
        alive, fan_in = self._left(state, mask.sum(1), best.sum(1), ablate)
        rank = torch.where(survivors, FIRST, grad)
        return keep_top(rank, fan_in) & alive[:, None]

    def _left(self, state: WeightState, fan_ins: Tensor, counts: Tensor, ablate: bool) -> tuple[Tensor, int]:
        """Which neurons stay, and the fan-in that they share the layer's budget with; counts: of salient entries."""
        alive = fan_ins > 0
        if ablate:
            fewest = -(-state.count // state.shape[1])  # that can hold the budget
            alive = _enough(alive, counts, max(1.0, self.gamma * int(fan_ins.max())), fewest)
        return alive, min(state.shape[1], max(1, state.count // int(alive.sum())))

    def _stream(self, run: Run, state: WeightState, zeta: float, *, ablate: bool) -> None:
        """The same masks where only the kept values exist, and the dense gradient goes by in blocks."""
        topology, drop = state.packed, exact_count(state.kept, zeta)
        assert topology is not None
        stay = keep_top(state.weight.parameter.detach().abs().float()[None], state.kept - drop)[0]
        rows, fan_ins = topology.places[stay] // state.shape[1], topology.row_counts
        counts = torch.bincount(rows, minlength=state.shape[0]) + salient(state, drop)
        alive, fan_in = self._left(state, fan_ins, counts, ablate)

        def choose(rows: range, entries: slice, here: Tensor, rank: Tensor) -> Mask:
            rank.view(-1)[here[stay[entries]]] = FIRST
            return keep_top(rank, fan_in) & alive[rows.start : rows.stop, None]

        exchange_rows(run, state, choose, ByGradient(state))


def _top(score: Tensor, among: Mask, count: int) -> Mask:
    count = min(count, int(among.sum()))
    ranked = score.masked_fill(~among, float("-inf")).reshape(1, -1)
    return keep_top(ranked, count).reshape(score.shape) & among


def _enough(alive: Tensor, counts: Tensor, least: float, fewest: int) -> Tensor:
    """The neurons that stay: those with enough salient entries, and the best ones where these are too few."""
    stay = alive & (counts >= least)
    if int(stay.sum()) < fewest:
        among = min(fewest, int(alive.sum()))
        stay = keep_top(counts.masked_fill(~alive, -1).float()[None], among)[0]
    return stay


@dataclass(frozen=True)
class RandomFanIn:
    """Random inputs for each neuron, equally many."""

    def __call__(self, run: Run) -> None:
        for state in run.states:
            if not isinstance(state.pattern, FanIn):
                raise SparsityError(
                    f'srigl: trains constant fan-in, not {state.pattern}; leave pattern out, or use "rigl"'
                )
        RandomStart()(run)


@method("srigl", source="Lasby et al. 2023, arXiv:2305.02299, section 3.1", protocols=("transform", "pattern"))
def srigl(
    *,
    pattern: Pattern = FanIn(),
    allocation: Allocation = ErdosRenyi(),
    fraction: float = 0.3,
    gamma: float = 0.3,
    every: int = 100,
    end: float = 0.75,
    schedule: Schedule | None = None,
    instead: bool = True,
) -> SparseMethod:
    """RigL in which every neuron keeps equally many inputs, and neurons with too few salient inputs are ablated.

    gamma: least share of the fan-in that has to be salient (0.3 for convolutional nets, 0.95 for vision transformers in
    the paper; 0 ablates only neurons without any); the others as for `rigl`.
    """
    topology = ConstantFanIn(Clock(every, 0.0, end), fraction, gamma, schedule, instead)
    return SparseMethod(RandomFanIn(), topology, pattern=pattern, allocation=allocation, exact=False)
