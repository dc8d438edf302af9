"""The trainer: keeps a model sparse around the steps of an ordinary optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import ModelError
from rarefy.core.shapes import Mask
from rarefy.training import at_work, checkpoint, optimizers
from rarefy.training.kept_gradients import KeptGradients
from rarefy.training.loaded import take_over
from rarefy.training.method import SparseMethod
from rarefy.training.report import TrainingReport, report_of
from rarefy.training.run import Run
from rarefy.training.step_checks import require_finite_penalty, require_gradients
from rarefy.training.switching import Switching
from rarefy.training.turns import rest


class SparseTrainer:
    """What `rarefy.sparse_training` gives: call `trainer.step()` where the loop called `optimizer.step()`.

    The trainer hangs on the optimizer's own hooks, so a loop that it does not own (`accelerate`, Lightning, the Trainer
    of `transformers`) may go on calling `optimizer.step()`: both do the same. Between steps the parameters of the model
    are the sparse weights themselves, dropped entries exactly zero, so evaluation, export and `model.state_dict()` see
    what was trained. Save `trainer.state_dict()` beside the model's and the optimizer's.
    """

    def __init__(self, name: str, method: SparseMethod, run: Run, optimizer: Any, runtime: str = "dense") -> None:
        self.name, self.method, self.run = name, method, run
        self._outer = optimizer
        self._skipped = False  # whether a scaler leaves the step under way out
        self._switching = Switching(run, method, runtime)
        run.opener = self._switching.opened
        self._gradients = KeptGradients(run, method)
        self._gradients.begin()
        self._hooks = [
            run.optimizer.register_step_pre_hook(self._pre_hook),
            run.optimizer.register_step_post_hook(self._post_hook),
        ]
        at_work.begins(self)

    @property
    def masks(self) -> dict[str, Mask]:
        """What is kept now: name of the weight -> `(out, in)`, True = keep."""
        return {state.name: state.mask for state in self.run.states}

    @property
    def sparsity(self) -> float:
        """The fraction of zeros over the trained weights, by the masks."""
        return 1.0 - sum(s.kept for s in self.run.states) / sum(s.size for s in self.run.states)

    @property
    def step_count(self) -> int:
        """Optimizer steps so far (those that only changed the masks count too)."""
        return self.run.step

    @property
    def runtime(self) -> dict[str, str]:
        """How each weight is trained now: "sparse" where only its kept values exist, else "dense" and why."""
        return self._switching.describe()

    def unpack(self) -> None:
        """Makes every weight a dense parameter again until the next step, for code that reads `module.weight` itself.

        State dicts, copies of the model and its forward pass need no such thing.
        """
        self._switching.unpack_all()

    def step(self, closure: Callable[[], Any] | None = None, *, scaler: Any = None) -> Any:
        """`optimizer.step()` with everything that sparsity needs around it.

        scaler: a `torch.amp.GradScaler`, whose `step` is then called with the optimizer; a step that it leaves out, as
        gradients overflowed, changes nothing and does not count, with fused optimizers as with others. Raises DataError
        without any gradient and for gradients that are not finite, and leaves everything as it was.
        """
        if scaler is not None:
            return scaler.step(self._outer)
        return self._outer.step() if closure is None else self._outer.step(closure)

    def zero_grad(self) -> None:
        """`optimizer.zero_grad()`."""
        self._outer.zero_grad()

    def report(self) -> TrainingReport:
        """Density and exploration of each weight, as they are now."""
        return report_of(self.name, self.run)

    def detach(self) -> TrainingReport:
        """Ends the sparse training: the optimizer's steps are ordinary ones from now on. Gives the last report."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._gradients.end()
        self._switching.end()
        at_work.ends(self)
        return self.report()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies would train dense, for optimizers lose their hooks when they are copied."""
        raise ModelError(
            f"SparseTrainer ({self.name!r}): cannot be copied or pickled, as it hangs on its optimizer's hooks, which "
            "copies lose; save trainer.state_dict() with the model's and the optimizer's state dicts, and go on with "
            "rarefy.sparse_training(model, optimizer, ..., state=...)"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the trainer has beyond model and optimizer: plain numbers, strings and tensors."""
        with torch.no_grad():
            for state in take_over(self.run, self.method.transform):
                assert state.master is not None
                state.show(self.method.transform.view(state.master, state))
        return checkpoint.save(self.name, self.method, self.run) | {"measured": self._switching.answers()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken; load the model's and the optimizer's state first.

        Raises ModelError, with the difference, for a state of another method, setting or model, and after `detach`.
        """
        if not self._hooks:
            raise ModelError(
                f"load_state_dict: this trainer ({self.name!r}, step {self.step_count}) was ended by its detach(), and "
                "its optimizer's steps are dense ones; make a new one with rarefy.sparse_training(model, optimizer, "
                "..., state=...)"
            )
        self._switching.unpack_all()
        checkpoint.load(state, self.name, self.method, self.run)
        self._switching.pack_named(state.get("packed", []), state.get("measured", {}))
        self._prepare()

    @torch.compiler.disable  # a compiled optimizer step has nothing to trace here
    def _pre_hook(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        """Works before the step, or, where the step computes the gradients itself, inside its closure."""
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._before()
            return None

        def wrapped() -> Any:
            value = closure()
            with torch.no_grad():
                self._before()
            return value

        return (args[0], wrapped, *args[2:]), {k: v for k, v in kwargs.items() if k != "closure"}

    @torch.compiler.disable
    def _post_hook(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self._after()

    @torch.no_grad()
    def _before(self) -> None:
        self.run.finish.clear()  # of a step that failed
        self._skipped = not optimizers.unscale(self.run.optimizer)
        if self._skipped:
            return
        self._gradients.restore()
        require_gradients(self.run)
        run, transform = self.run, self.method.transform
        take_over(run, transform)
        pushes = self._penalty_gradients()
        require_finite_penalty(run, pushes, self.name)
        rest(run)
        leave_out = self.method.topology.before(run)
        if leave_out:
            for group in run.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
            for state in run.moving:
                if state.master is not None:
                    state.put(state.master)
            return
        for state, push in zip(run.states, pushes, strict=True):
            if state.packed is not None or state.name in run.idle:
                continue  # a packed gradient is that of the kept values
            grad = state.grad()
            if state.master is not None:
                state.put(state.master)
            if grad is None:
                continue
            value = state.value()
            changed = transform.on_grad(grad, value, state)
            if push is not None:
                changed = changed + (push if transform.wants_dense_grad else push * state.mask)
            state.put_grad(changed)
        run.correct_young()

    @torch.no_grad()
    def _after(self) -> None:
        if self._skipped:
            return
        run, transform = self.run, self.method.transform
        run.finish_young()
        for state in run.moving:
            if state.packed is not None:
                continue
            parameter = state.weight.as_matrix(state.weight.parameter.detach())
            value = transform.on_step(parameter, state)
            if state.master is None:
                state.put(value)
            else:
                state.master.copy_(value)
        self.method.topology.after(run)
        run.step += 1
        self.show()
        run.idle = frozenset()

    @torch.no_grad()
    def show(self) -> None:
        """Writes what the forward pass has to see into the parameters."""
        for state in self.run.states:
            state.step = self.run.step
            if state.master is not None and state.name not in self.run.idle:
                state.show(self.method.transform.view(state.master, state))
        self._prepare()
        self.run.tell_of_collapse()

    def _prepare(self) -> None:
        """For the backward passes of the coming step."""
        self._switching.prepare()
        self._gradients.prepare()

    def _penalty_gradients(self) -> list[Tensor | None]:
        if self.method.penalty is None:
            return [None] * len(self.run.states)
        leaves = [state.value().detach().clone().requires_grad_(True) for state in self.run.states]
        with torch.enable_grad():
            value = self.method.penalty(leaves, self.run)
            if value is None:
                return [None] * len(leaves)
            return list(torch.autograd.grad(value, leaves, allow_unused=True))


def require_in_optimizer(run: Run) -> None:
    """Refuses weights that the optimizer does not train: their masks would be wrong after its first step."""
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    for state in run.states:
        if id(state.weight.parameter) not in held:
            raise ModelError(
                f"{state.name}: its parameter is in none of the optimizer's groups; make the optimizer of "
                f"model.parameters(), or leave the layer alone with ignore=[{state.name!r}]"
            )
