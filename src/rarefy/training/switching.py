"""Which layers train on their kept values only, and their way there and back."""

import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from rarefy.core.errors import unknown_name
from rarefy.training import optimizers
from rarefy.training.fast_path import FastPath
from rarefy.training.method import Opens, SparseMethod
from rarefy.training.packable import why_never, why_not, why_not_now
from rarefy.training.run import Run
from rarefy.training.runtime import faces
from rarefy.training.runtime.faces import Packing
from rarefy.training.runtime.faster import faster
from rarefy.training.state import WeightState

_MODES = ("dense", "auto", "sparse")
_DENSEST = 0.5  # denser weights were never faster on any machine measured, so they are not timed
_GAIN, _LOSS = 1.1, 1.0  # packed above the one ratio, unpacked below the other: no flutter between them
_STEP = math.log(1.25)  # densities within a quarter of each other are one question


@dataclass
class InputSize:
    """A hook that remembers the shape of what a layer was last given in training."""

    shape: tuple[int, ...] | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if module.training and args and isinstance(args[0], torch.Tensor):
            self.shape = tuple(args[0].shape)


def require_mode(mode: str) -> None:
    """Refuses a `runtime=` that there is not."""
    if mode not in _MODES:
        raise unknown_name("sparse_training(runtime=)", mode, _MODES)


class Switching:
    """Gives layers their sparse face, where only kept values, their gradients and optimizer memory exist, and back.

    mode: "dense": never; "sparse": wherever it is possible; "auto": where it was measured to be faster at the layer's
    size, batch and density, asked again when one of them changes. Masks and results are those of dense training, to
    rounding.
    """

    def __init__(self, run: Run, method: SparseMethod, mode: str) -> None:
        self.run, self.mode, self._topology = run, mode, method.topology
        general = "runtime='dense'" if mode == "dense" else why_never(run, method)
        self._reasons = {state.name: general or why_not(run, state) for state in run.states}
        self._sizes: dict[str, InputSize] = {}
        self._asked: dict[str, tuple[tuple[int, ...], int]] = {}
        self._hooks: list[Any] = []
        self._fast_path = FastPath(run.model)
        if not self._able():
            return
        self._hooks = [
            run.optimizer.register_state_dict_post_hook(self._show_dense),
            run.optimizer.register_load_state_dict_pre_hook(lambda *_: self.unpack_all()),
        ]
        for state in self._able() if mode == "auto" else []:
            self._sizes[state.name] = InputSize()
            self._hooks.append(state.weight.module.register_forward_pre_hook(self._sizes[state.name]))

    def _able(self) -> list[WeightState]:
        return [state for state in self.run.states if self._reasons[state.name] is None]

    def describe(self) -> dict[str, str]:
        """Of each weight: "sparse", or "dense" with the reason."""
        now = "not measured to be faster" if self.mode == "auto" else "nothing is dropped yet"
        return {
            state.name: "sparse"
            if state.packed is not None
            else f"dense: {self._reasons[state.name] or why_not_now(state) or now}"
            for state in self.run.states
        }

    def prepare(self) -> None:
        """Ahead of a step: chooses faces, and has dense gradients watched where the step will look at them."""
        able = self._able()
        looks = bool(able) and isinstance(self._topology, Opens) and self._topology.wants_gradient(self.run)
        for state in able:
            self._choose(state)
            if state.packed is not None:
                self._packing(state).watch_gradient(state.weight.parameter, looks)

    def _choose(self, state: WeightState) -> None:
        if self.mode == "sparse":
            if state.packed is None and state.kept < state.size and not why_not_now(state):
                self.pack(state)
            return
        shape, density = self._sizes[state.name].shape, state.kept / state.size
        if shape is None:
            return
        question = (shape, round(math.log(max(density, 1e-6)) / _STEP))
        if self._asked.get(state.name) == question:
            return
        self._asked[state.name] = question
        layer, images = faces.layer_of(state.weight.module, shape)
        at = math.exp(question[1] * _STEP)
        gain = faster(layer, images, at).ratio if density <= _DENSEST else 0.0
        if state.packed is None and gain > _GAIN and not why_not_now(state):
            self.pack(state)
        elif state.packed is not None and gain < _LOSS:
            self.unpack(state)

    def pack(self, state: WeightState) -> None:
        """Only the kept values of the weight exist from now on."""
        module, parameter = state.weight.module, state.weight.parameter
        along = partial(optimizers.gather, self.run.optimizer, parameter)
        state.close(faces.pack_module(module, state.mask, along))
        self._packing(state).open = weakref.ref(self)
        self._fast_path.look(module)

    def unpack(self, state: WeightState) -> None:
        """The dense weight, its gradient and optimizer memory are there again, zeros where nothing is kept."""
        along = partial(optimizers.scatter, self.run.optimizer, state.weight.parameter)
        faces.unpack_module(state.weight.module, along)
        self._fast_path.look(state.weight.module)
        state.open()

    def unpack_all(self) -> None:
        """Every layer dense; the next step asks anew what to pack."""
        self._asked.clear()
        for state in self.run.states:
            if state.packed is not None:
                self.unpack(state)

    def answers(self) -> dict[str, list[int]]:
        """Of each weight that was measured: the size of the input, and the step of density behind it."""
        return {name: [*shape, step] for name, (shape, step) in self._asked.items()}

    def pack_named(self, names: list[str], answers: dict[str, list[int]]) -> None:
        """Packs what a checkpoint says was packed, where that is possible here; what it measured is not asked again."""
        for state in self._able():
            if state.name in names and state.packed is None and not why_not_now(state):
                self.pack(state)
            if state.name in answers:
                self._asked[state.name] = (tuple(answers[state.name][:-1]), answers[state.name][-1])

    def release(self, module: nn.Module) -> bool:
        """Unpacks the weight of a module of this run; False for another's (a copy)."""
        for state in self.run.states:
            if state.packed is not None and state.weight.module is module:
                self.unpack(state)
                return True
        return False

    @contextmanager
    def opened(self, state: WeightState) -> Iterator[None]:
        """The dense face of one weight for a moment, with its whole gradient where that was watched."""
        if state.packed is None:
            yield
            return
        gradient = faces.dense_gradient(state.weight.module)
        self.unpack(state)
        if gradient is not None:
            state.weight.parameter.grad = gradient
        try:
            yield
        finally:
            if state.kept < state.size and not why_not_now(state):
                self.pack(state)

    def end(self) -> None:
        """Every layer dense, no hooks left."""
        self.unpack_all()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _packing(self, state: WeightState) -> Packing:
        packing = state.weight.module.packing
        assert isinstance(packing, Packing)
        return packing

    def _show_dense(self, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        """In the optimizer's state dict its memory of packed weights is dense, so that it fits the model's."""
        order = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        for state in self.run.states:
            topology, parameter = state.packed, state.weight.parameter
            if topology is None or parameter not in optimizer.state:
                continue
            shape, number = self._packing(state).shape, order.index(id(parameter))
            held = dict(optimizers.entries(optimizer, parameter))
            dense = {name: topology.scatter(value).view(shape) for name, value in held.items()}
            saved["state"][number] = {**saved["state"][number], **dense}
