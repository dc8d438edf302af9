"""The public door of sparse training: methods by name, also those that prune once at initialization."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import as_batches
from rarefy.core.errors import UnknownNameError
from rarefy.core.protocols import Allocation, Pattern, Schedule
from rarefy.core.registry import lookup
from rarefy.pruning import OneShot
from rarefy.pruning.carry_out import all_or_nothing, own_modes
from rarefy.pruning.resolve import resolve_pattern
from rarefy.recipes.train_pruned import prune_weights
from rarefy.training.at_work import require_unheld
from rarefy.training.begin import begin
from rarefy.training.method import SparseMethod
from rarefy.training.static import static
from rarefy.training.trainer import SparseTrainer
from rarefy.training.weights import find_weights


def sparse_training(
    model: nn.Module,
    optimizer: Any,
    method: str | SparseMethod | OneShot,
    *,
    sparsity: float | None = None,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | None = None,
    schedule: Schedule | None = None,
    total_steps: int | None = None,
    ignore: Sequence[str] = (),
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    state: Mapping[str, Any] | None = None,
    runtime: str = "dense",
    **options: Any,
) -> SparseTrainer:
    """Makes the training of `model` sparse: `trainer.step()` then takes the place of `optimizer.step()`.

    optimizer: any `torch.optim` optimizer of the model's parameters (or what `accelerate` made of it).
    method: a registered name (`rarefy methods`) or a `SparseMethod`. A one-shot method ("snip", "grasp", "synflow",
    "robust-pai", "random-pruning", "magnitude", ...) prunes now, with `data` and `loss(model, batch)`, and the mask
    stays. options: the method's own.
    sparsity: fraction of zeros over the trained weights, in [0, 1); N:M patterns fix it. Trained are all linear,
    convolutional, recurrent and attention matrices but those that `ignore` names.
    schedule: of what the method schedules (drop fraction, density); see its own page. total_steps: optimizer steps of
    the whole training; needed where a schedule ends with it. state: what `trainer.state_dict()` gave, to go on from a
    checkpoint whose model and optimizer are loaded already; nothing is pruned or drawn anew then.
    runtime: "dense" masks dense weights; "sparse" keeps only the kept values of every layer that can, with their
    gradients and optimizer memory, and skips the zeros forward and backward; "auto" does so where it is measured to be
    faster. `trainer.runtime` says what became of each layer and why.

    >>> import torch
    >>> model = torch.nn.Linear(8, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> trainer = sparse_training(model, optimizer, "rigl", sparsity=0.75, total_steps=100, every=10)
    >>> model(torch.ones(2, 8)).sum().backward()
    >>> trainer.step()
    >>> int((model.weight != 0).sum())
    8
    """
    if schedule is not None:
        options["schedule"] = schedule
    name, made = _resolve(method, options)
    common: dict[str, Any] = {"ignore": ignore, "seed": seed, "loss": loss}
    batches = [] if data is None else as_batches(data, method=name, needed=False)
    with ExitStack() as undo:
        if isinstance(made, OneShot):
            if state is None:
                weights, _ = find_weights(model, ignore)
                require_unheld(weights)
                undo.enter_context(own_modes(weights))
                undo.enter_context(all_or_nothing(weights))
                chosen: dict[str, Any] = {"sparsity": sparsity, "pattern": pattern, "allocation": allocation}
                prune_weights(model, weights, name, made, batches=batches, loss=loss, seed=seed, **chosen)
            asked = _asked(made, sparsity, pattern, allocation, options)
            made, sparsity, pattern, allocation = replace(static(start="given"), chosen=asked), None, None, None
        return begin(
            model,
            optimizer,
            made,
            name=name,
            sparsity=sparsity,
            pattern=pattern,
            allocation=allocation,
            total_steps=total_steps,
            batches=batches,
            state=state,
            runtime=runtime,
            **common,
        )


def _asked(made: OneShot, sparsity: float | None, pattern: object, allocation: object, options: dict[str, Any]) -> str:
    """What a one-shot method is asked for, the same in every process: objects by their type."""
    plain = {k: v if isinstance(v, str | int | float | None) else type(v).__name__ for k, v in sorted(options.items())}
    support = resolve_pattern(pattern, made.pattern)
    return f"sparsity={sparsity}, pattern={support}, allocation={allocation or made.allocation}, {plain}"


def _resolve(method: object, options: dict[str, Any]) -> tuple[str, SparseMethod | OneShot]:
    if isinstance(method, SparseMethod):
        if options:
            raise UnknownNameError(f"sparse_training: options {sorted(options)} go with a name, not with an object")
        return "custom", method
    if not isinstance(method, str):
        raise UnknownNameError(f"method: {method!r} is neither a registered name nor a SparseMethod")
    factory = lookup("method", method).factory
    known = inspect.signature(factory).parameters
    for option in options:
        if option not in known:
            raise UnknownNameError(f"{method}: has no option {option!r}; it has {sorted(known)}")
    made = factory(**options)
    if not isinstance(made, SparseMethod | OneShot):
        raise UnknownNameError(f"method: {method!r} trains nothing and prunes nothing; see `rarefy methods`")
    return method, made
