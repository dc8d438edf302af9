"""What a correction of grown weights works on: their entries of the optimizer's memory, and factors by their age."""

import math
from typing import Any

import torch
from torch import Tensor, optim

from rarefy.training.optimizers import group_of

OLD = 1e-4
"""A moment is old enough when beta^age is below it: the correction is 1 to this much."""


class Job:
    """One correction: the young entries `index` (flat positions) of a parameter, and their `age` in steps."""

    def __init__(self, optimizer: optim.Optimizer, parameter: Tensor, index: Tensor, age: Tensor) -> None:
        self.memory: dict[str, Any] = optimizer.state[parameter]
        self.group = group_of(optimizer, parameter) or {}
        self.optimizer, self.parameter, self.index = optimizer, parameter, index
        self.ages = age
        self.before, self.age = age.double(), (age + 1).double()  # ahead of the step and after it
        self.t = steps_of(self.memory) + 1

    def held(self, name: str) -> Tensor:
        """The memory of the entries, zero for new ones; float64."""
        found = self.memory[name].reshape(-1)[self.index].double()
        return torch.where(self.before > 0, found, torch.zeros_like(found))

    def store(self, name: str, value: Tensor) -> None:
        put(self.memory[name], self.index, value)

    def gradient(self) -> Tensor:
        """The gradient that the optimizer puts into its moments: with L2 decay where that is not decoupled; float64."""
        assert self.parameter.grad is not None
        grad = self.parameter.grad.reshape(-1)[self.index].double()
        grad = -grad if self.group.get("maximize") else grad
        decay = decay_of(self.optimizer, self.group)
        if decay:
            grad = grad + decay * self.parameter.detach().reshape(-1)[self.index].double()
        return grad


def decay_of(optimizer: optim.Optimizer, group: dict[str, Any]) -> float:
    """The L2 decay that the optimizer adds to gradients: none where it is decoupled from them."""
    # Before torch 2.7 an AdamW has no such setting.
    decoupled = isinstance(optimizer, optim.AdamW) or group.get("decoupled_weight_decay", False)
    return 0.0 if decoupled else float(group.get("weight_decay", 0.0))


def steps_of(memory: dict[str, Any]) -> int:
    """How many steps the optimizer counts for a parameter."""
    step = memory.get("step", 0)
    return int(step.item() if isinstance(step, Tensor) else step)


def put(tensor: Tensor, index: Tensor, value: Tensor) -> None:
    """Writes entries at flat positions, in place."""
    if tensor.is_contiguous():
        tensor.view(-1)[index] = value.to(tensor.dtype)
    else:
        tensor[torch.unravel_index(index, tensor.shape)] = value.to(tensor.dtype)


class Factors:
    """Of each entry by its age, from tables over all ages: what a moment of decay `beta` is scaled by, how much of the
    step's push comes to it, and whether it is still young after the step."""

    def __init__(self, job: Job, beta: float) -> None:
        power = beta ** torch.arange((int(job.ages.max()) if len(job.ages) else 0) + 2, dtype=torch.float64)
        old, new = 1.0 - beta ** (job.t - 1), 1.0 - beta**job.t
        now, then = (old / (1.0 - power[:-1])).clamp_min(1e-300), new / (1.0 - power[1:])
        now[0] = math.inf  # nothing is held ahead of the first step
        self.scale, self.push = (then / now)[job.ages], ((then - 1.0) * (1.0 - beta) / beta)[job.ages]
        self.young = (power[1:] > OLD)[job.ages]
