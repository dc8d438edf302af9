"""Gradients of dropped entries, kept out of `parameter.grad`: what clips, logs or shares it sees what trains."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor

from rarefy.training.masked import Masked
from rarefy.training.method import Opens, SparseMethod
from rarefy.training.ranks import several_ranks
from rarefy.training.run import Run
from rarefy.training.state import WeightState


@dataclass
class KeptGradients:
    """Of a run whose method says at which steps it looks at dense gradients; for others nothing is changed.

    Then the whole gradient is summed beside `parameter.grad`, and is put there when the step begins, as if everything
    that was done to the kept entries since (a scaler of the loss, clipping) had been done to all. Among ranks such
    steps share dense gradients as they are.
    """

    run: Run
    method: SparseMethod
    _looks: bool = False
    _whole: dict[str, Tensor] = field(default_factory=dict)
    _hooks: list[Any] = field(default_factory=list)

    def begin(self) -> None:
        """Hangs on the weights."""
        transform = self.method.transform
        if not isinstance(transform, Masked) or transform.wants_dense_grad or self.method.prepare is not None:
            return
        if isinstance(self.method.topology, Opens):
            arrives = WeakMethod(self._arrives)  # weights outlive a trainer that nobody holds
            for state in self.run.states:
                parameter = state.weight.parameter
                trains = parameter.requires_grad
                parameter.requires_grad_(True)  # hooks hang on no frozen weight, and stay on one that is frozen later
                self._hooks.append(parameter.register_hook(partial(_arrived, arrives, state)))
                parameter.requires_grad_(trains)

    def prepare(self) -> None:
        """Ahead of the backward passes of a step."""
        self._whole.clear()
        topology = self.method.topology
        self._looks = bool(self._hooks) and isinstance(topology, Opens) and topology.wants_gradient(self.run)

    def end(self) -> None:
        """Lets go of the weights."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _arrives(self, state: WeightState, grad: Tensor) -> Tensor | None:
        if state.packed is not None:
            return None
        if self._looks:
            if several_ranks():
                return None
            so_far = state.weight.parameter.grad
            cleared = so_far is None or not bool(so_far.any())
            before = None if cleared else self._whole.get(state.name)
            self._whole[state.name] = grad.detach().clone() if before is None else before.add_(grad)
        return torch.where(state.weight.as_parameter(state.mask), grad, 0.0)

    def restore(self) -> None:
        """Gives the step that is about to begin the dense gradients it looks at."""
        for state in self.run.states:
            whole, now = self._whole.pop(state.name, None), state.weight.parameter.grad
            if whole is None or now is None or state.packed is not None:
                continue
            kept = state.weight.as_parameter(state.mask)
            seen = whole.masked_fill(~kept, 0.0)
            most = float(seen.square().sum(dtype=torch.float64))
            factor = float((seen * now).sum(dtype=torch.float64)) / most if most > 0.0 else 1.0
            state.weight.parameter.grad = torch.where(kept, now, factor * whole)


def _arrived(arrives: "WeakMethod[Any]", state: WeightState, grad: Tensor) -> Tensor | None:
    method = arrives()
    changed: Tensor | None = None if method is None else method(state, grad)
    return changed
