"""From the words of the door to a trainer."""

import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError, ShapeError, SparsityError, UnknownNameError
from rarefy.core.memory import give_back
from rarefy.core.protocols import Allocation, Pattern
from rarefy.core.seeds import own_generator
from rarefy.core.site import Site
from rarefy.patterns.parse import parse_pattern
from rarefy.patterns.unstructured import Layerwise, Rowwise
from rarefy.training import optimizers
from rarefy.training.at_work import require_free, require_unheld
from rarefy.training.clock import Clock
from rarefy.training.densities import saved_densities, spread
from rarefy.training.method import Chooses, Exchanges, SparseMethod
from rarefy.training.options import require_steps
from rarefy.training.run import Run
from rarefy.training.starts import dense_mask, may_spoil, require_kept
from rarefy.training.state import WeightState
from rarefy.training.switching import require_mode
from rarefy.training.trainer import SparseTrainer, require_in_optimizer
from rarefy.training.weights import find_weights


def begin(
    model: nn.Module,
    optimizer: Any,
    method: SparseMethod,
    *,
    name: str = "custom",
    sparsity: float | None = None,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    total_steps: int | None = None,
    ignore: Sequence[str] = (),
    batches: Sequence[Any] = (),
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    state: Mapping[str, Any] | None = None,
    runtime: str = "dense",
) -> SparseTrainer:
    """A trainer for a method, its first masks chosen; see `rarefy.sparse_training`, which finds the method by name."""
    require_mode(runtime)
    support = _pattern(pattern, method.pattern)
    if isinstance(method.topology, Chooses) and (why := method.topology.why_not(support)):
        raise SparsityError(f"{name}: {why}")
    inner = optimizers.unwrap(optimizer)
    if isinstance(inner, torch.optim.LBFGS):
        raise ModelError(
            "sparse_training: LBFGS looks at the loss several times a step, moving the weights in between, where masks "
            "cannot hold; train with one that moves them once a step (torch.optim.SGD, Adam, AdamW, ...)"
        )
    require_free(inner)
    if total_steps is not None:
        require_steps("total_steps", total_steps)
        total_steps = operator.index(total_steps)
    if method.topology.needs_end and total_steps is None:
        raise SparsityError(f"{name}: total_steps is missing, and its schedule ends with the training; give it")
    if isinstance(method.topology, Exchanges) and total_steps is not None:
        _warn_if_still(name, method.topology.exchanges, total_steps)
    saved = saved_densities(state)
    weights, _ = find_weights(model, ignore, embeddings=method.embeddings, frozen=saved)
    require_unheld(weights)
    density, densities = spread(weights, sparsity, support, allocation, method, saved)
    states = [_state(weight, support, densities[weight.name], method, total_steps) for weight in weights]
    generator = own_generator(seed, "sparse training")
    keeps = method.transform.wants_dense_grad
    run = Run(model, inner, states, density, total_steps, generator, 0, batches, loss, keeps_memory=keeps)
    require_in_optimizer(run)
    if method.prepare is not None:
        method.prepare(run)
    with torch.no_grad():
        _start(run, method, fresh=state is None)
    trainer = SparseTrainer(name, method, run, optimizer, runtime)
    try:
        if state is not None:
            trainer.load_state_dict(state)
        trainer.show()
    except BaseException:
        trainer.detach()
        raise
    give_back()  # dense weights and what chose among them
    return trainer


def _start(run: Run, method: SparseMethod, *, fresh: bool) -> None:
    """What the transform needs and, in a fresh run, the first masks; the weights are as they were where that fails."""
    before = [(state, state.value().clone()) for state in run.states if may_spoil(method)]
    try:
        for state in run.states:
            method.transform.init(state)
        if fresh:
            require_kept(run)  # by what is asked of each; the masks are full
            method.start(run)
            require_kept(run)
            for state in run.states:
                state.explored = state.mask.clone()
    except BaseException:
        for state, value in before:
            state.put(value)
        raise


def _warn_if_still(name: str, clock: Clock, total: int) -> None:
    """Says that a method whose clock never ticks is one of masks that stand still."""
    if clock.ticks(total):
        return
    last = round(clock.end * total)
    remedy = f"give every={max(1, last // 10)}, say," if last > 1 else "train longer"
    warnings.warn(
        f"{name}: with total_steps={total} and every={clock.every} the masks never change: they would at multiples of "
        f"{clock.every} steps before step {last}; the first masks stay to the end; {remedy} or accept it",
        stacklevel=4,
    )


def _state(
    weight: Site, pattern: Pattern, density: float, method: SparseMethod, total_steps: int | None
) -> WeightState:
    rows, n = weight.shape
    tile = pattern.granularity
    if rows % tile[0] or n % tile[1]:
        raise ShapeError(
            f"{weight.name}: {pattern} needs multiples of {tile[0]} x {tile[1]}, but the weight is {rows} x {n}; leave "
            f"it alone with ignore=[{weight.name!r}], or choose another pattern"
        )
    if not bool(weight.parameter.detach().isfinite().all()):
        raise ModelError(f"{weight.name}: holds NaN or infinity; repair the model before training it")
    master = weight.read().to(weight.parameter.dtype) if method.transform.wants_master else None
    explored = torch.zeros(weight.shape, dtype=torch.bool)
    mask = dense_mask(weight.shape)
    return WeightState(weight, pattern, density, mask, master, tried=explored, total_steps=total_steps)


def _pattern(pattern: str | Pattern | None, default: Pattern) -> Pattern:
    if pattern is None or (pattern == "unstructured" and isinstance(default, Layerwise | Rowwise)):
        return default
    if isinstance(pattern, str):
        return parse_pattern(pattern)
    if not isinstance(pattern, Pattern):
        raise UnknownNameError(f"pattern: {pattern!r} is neither a name nor a Pattern (select, allows, count)")
    return pattern
