"""One sparse training run: what the parts of a method see and may change."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Mask, Weight
from rarefy.training import fresh_steps, optimizers
from rarefy.training.ranks import of_first_rank
from rarefy.training.runtime.places import number_type
from rarefy.training.runtime.topology import Topology
from rarefy.training.state import WeightState

SOURCE = "source"  # in state.extra, where a run is confined to it: the entries that may be kept at all, (out, in)


class Found:
    """Where flat positions lie among the entries of a topology, as long as neither changes."""

    def __init__(self, index: Tensor, topology: Topology | None, where: Tensor) -> None:
        self.index, self.topology, self.where = index, topology, where
        self.version = None if topology is None else topology.version

    def fits(self, index: Tensor, topology: Topology) -> bool:
        """Whether it is of these positions and of this topology, as it is now."""
        return index is self.index and topology is self.topology and topology.version == self.version


@dataclass
class Run:
    """The run as the method's parts see it.

    density: asked over all weights of `states`; step: optimizer steps done so far; generator: of everything random,
    the same on all ranks; batches, loss: what the user gave for methods that look at the loss; memory: what the
    topology remembers across weights (plain numbers and tensors, saved with the checkpoint); young: flat positions and
    ages of what has just grown; found: their places in packed weights; opener: of packed weights, see `opened`;
    finish: what `correct_young` left to do after the step; said_unknown: whether the warning about the optimizer has
    been given; collapsed: weights that a mask left one entry of, and whether the user knows; idle: names of the weights
    without a gradient in the step under way, which keep their values and masks in it (`turns`).
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    states: list[WeightState]
    density: float
    total_steps: int | None
    generator: torch.Generator
    step: int = 0
    batches: Sequence[Any] = ()
    loss: Callable[[nn.Module, Any], Tensor] | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    keeps_memory: bool = False
    young: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    opener: Callable[[WeightState], AbstractContextManager[None]] | None = None
    finish: list[fresh_steps.Finish] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    said_unknown: bool = False
    collapsed: dict[str, bool] = field(default_factory=dict)
    idle: frozenset[str] = frozenset()

    def __getitem__(self, name: str) -> WeightState:
        return next(state for state in self.states if state.name == name)

    @property
    def moving(self) -> list[WeightState]:
        """The weights that the step under way may change."""
        return [state for state in self.states if state.name not in self.idle]

    def end(self, where: str) -> int:
        """`total_steps`, or an error that says who needs it."""
        if self.total_steps is None:
            raise SparsityError(f"{where}: total_steps is missing, and its schedule ends with the training; give it")
        return self.total_steps

    def opened(self, state: WeightState) -> AbstractContextManager[None]:
        """Within it the weight is dense, whether or not only its kept values exist otherwise."""
        return nullcontext() if self.opener is None else self.opener(state)

    def rand(self, state: WeightState) -> Tensor:
        """Uniform random numbers in [0, 1) of the weight's shape, from the run's generator."""
        return torch.rand(state.weight.shape, generator=self.generator)

    def moment(self, state: WeightState, *names: str) -> Weight | None:
        """The optimizer's memory of the weight by the first name that it has (`momentum_buffer`, `exp_avg`, ...)."""
        memory = self.optimizer.state.get(state.weight.parameter, {})
        for name in names:
            if isinstance(memory.get(name), Tensor):
                return state.weight.as_matrix(memory[name])
        return None

    def set_mask(self, state: WeightState, mask: Mask, grown: Tensor | None = None) -> None:
        """Gives a weight another mask.

        Dropped entries become zero, new ones take the values of `grown` (out, in), zero without it; the optimizer
        forgets both, and takes the new ones as if it had begun with them. Behind a view (`state.master`) the dense
        weight stays as it is, and the optimizer's memory with it: that is right where masked weights are trained on
        (straight-through, Top-KAST's backward set), and a topology whose transform lets them rest calls `forget`. All
        ranks take the mask and values of rank 0. Where the run is confined to a source mask (`state.extra[SOURCE]`),
        nothing outside is kept. A weight without a gradient in the step under way keeps its mask.
        """
        if state.name in self.idle:
            return
        mask = self.agreed(mask & state.extra[SOURCE] if SOURCE in state.extra else mask)
        dropped, fresh = state.mask & ~mask, mask & ~state.mask
        state.mask = mask
        self.note_collapse(state)
        if state.explored is not None:
            state.explored |= mask
        if state.master is not None:
            return
        value = torch.where(fresh, 0.0 if grown is None else self.agreed(grown).to(state.value().dtype), state.value())
        state.put(value.mul_(mask))
        if not self.keeps_memory:
            self.forget(state, dropped | fresh, fresh)

    def note_collapse(self, state: WeightState) -> None:
        """To be called after a change of the mask: `tell_of_collapse` warns where it left one entry."""
        if state.name not in self.collapsed and state.kept == 1 and self.density * state.size >= 2:
            self.collapsed[state.name] = False

    def tell_of_collapse(self) -> None:
        """Warns of weights that have come down to the one entry which is kept in any case, once each."""
        names = [name for name, told in self.collapsed.items() if not told]
        if names:
            self.collapsed.update(dict.fromkeys(names, True))
            warnings.warn(
                f"sparse training, step {self.step}: one weight is left of {', '.join(names)}, which is kept because "
                "no layer may be empty: hardly anything passes there; ask for less sparsity, leave small layers dense "
                "with ignore=[...], or take a method or an allocation that keeps every layer's share",
                UserWarning,
                stacklevel=3,
            )

    def forget(self, state: WeightState, changed: Mask, fresh: Mask) -> None:
        """Lets the optimizer forget the changed entries; the fresh ones among them begin as in a new optimizer."""
        parameter = state.weight.parameter
        optimizers.forget(self.optimizer, parameter, state.weight.as_parameter(changed))
        flat = state.weight.as_parameter(changed).reshape(-1)
        new = state.weight.as_parameter(fresh).reshape(-1).nonzero().flatten()
        self.renew(state, lambda index: flat[index], new)

    def renew(self, state: WeightState, changed: Callable[[Tensor], Tensor], fresh: Tensor) -> None:
        """Which weights are young after a change: not those that `changed` (of flat positions), but the fresh ones."""
        none = torch.empty(0, dtype=torch.int32)
        index, age = self.young.pop(state.name, (none, none))
        stay = ~changed(index)
        if fresh_steps.rule_of(self.optimizer, state.weight.parameter) is None:
            self._say_unknown(state, fresh)
        else:
            fresh = fresh.to(number_type(state.size))
            ages = torch.cat([age[stay], torch.zeros(len(fresh), dtype=torch.int32)])
            self.young[state.name] = torch.cat([index[stay], fresh]), ages

    def _say_unknown(self, state: WeightState, fresh: Tensor) -> None:
        if self.said_unknown or not len(fresh) or not fresh_steps.unknown(self.optimizer, state.weight.parameter):
            return
        self.said_unknown = True
        warnings.warn(
            f"{type(self.optimizer).__name__}: counts the steps of a whole tensor, and how its steps depend on that is "
            "not known here; its memory of single weights is emptied when they are dropped, but the first steps of "
            "grown ones are not those of a fresh optimizer; use an optimizer of torch.optim that treats every "
            "weight by itself (Adam, AdamW, SGD, ...), or accept it",
            stacklevel=2,
        )

    def correct_young(self) -> None:
        """Ahead of an optimizer step: see `fresh_steps`."""
        for name, (index, age) in list(self.young.items()):
            state, parameter = self[name], self[name].weight.parameter
            if parameter.grad is None or not len(index):
                continue
            where = self.entries(state, index)
            stay, finish = fresh_steps.correct(self.optimizer, parameter, where, age)
            if not bool(stay.all()):
                index, age, where = index[stay], age[stay], where[stay]
            self.young[name], self.found[name] = (index, age.add_(1)), Found(index, state.packed, where)
            self.finish += finish

    def entries(self, state: WeightState, index: Tensor) -> Tensor:
        """The places of flat positions in the parameter; searched for once a change where only kept values exist."""
        topology = state.packed
        if topology is None:
            return index
        known = self.found.get(state.name)
        return known.where if known is not None and known.fits(index, topology) else topology.entries(index)

    def finish_young(self) -> None:
        """After an optimizer step, ahead of all else that changes weights: what `correct_young` left to do."""
        for finish in self.finish:
            finish()
        self.finish.clear()

    def agreed(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0, where training is distributed."""
        return of_first_rank(tensor)
