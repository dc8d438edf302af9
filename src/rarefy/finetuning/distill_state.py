"""Where a distillation stands, so that another process can go on from there to the same weights, bit for bit."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import DataError


@dataclass(frozen=True)
class DistillState:
    """losses: of each step taken; seconds: used so far; weights: {parameter: values} of all that is trained; moments:
    {"exp_avg:PARAMETER": tensor, ...}, what Adam knows of each; generator: the state of torch's own."""

    losses: tuple[float, ...]
    seconds: float
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    generator: Tensor

    @property
    def steps(self) -> int:
        return len(self.losses)


Keep = Callable[[Callable[[], DistillState]], None]
"""Called after each step with a function that gives the state; its tensors are the live ones, so copy or write them."""


@dataclass
class Training:
    """The moving parts of a distillation. trained: the student's parameters by name; began: of `time.perf_counter`."""

    trained: Mapping[str, nn.Parameter]
    adam: torch.optim.Adam
    began: float
    losses: list[float]

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def state(self) -> DistillState:
        weights = {name: parameter.detach() for name, parameter in self.trained.items()}
        moments = {
            f"{what}:{name}": value
            for name, parameter in self.trained.items()
            for what, value in self.adam.state.get(parameter, {}).items()
        }
        return DistillState(tuple(self.losses), self.seconds, weights, moments, torch.get_rng_state())

    def go_on(self, state: DistillState) -> None:
        """Puts a state back, in place. Raises DataError where it is of another student."""
        found = {name: tuple(value.shape) for name, value in state.weights.items()}
        if found != {name: tuple(parameter.shape) for name, parameter in self.trained.items()}:
            raise DataError("distill: state= is of another student: its weights have other names or shapes; drop it")
        moments: dict[str, dict[str, Tensor]] = {}
        for key, value in state.moments.items():
            what, _, name = key.partition(":")
            moments.setdefault(name, {})[what] = value
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state.weights[name])
                if name in moments:
                    self.adam.state[parameter] = {what: _as(parameter, v) for what, v in moments[name].items()}
        self.losses[:] = state.losses
        self.began = time.perf_counter() - state.seconds
        torch.set_rng_state(state.generator)


def _as(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """A copy, laid out in memory as Adam lays out what belongs to the parameter."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, memory_format=torch.preserve_format).copy_(value)
