"""Sparse training under a mask that a one-shot method chooses first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.allocations.ranked import Global
from rarefy.calibration import as_batches
from rarefy.core.errors import ModelError
from rarefy.core.evidence import Need
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.shapes import Weight
from rarefy.core.site import Site, is_prunable
from rarefy.core.topk import keep_top
from rarefy.patterns.fixed import fixed_density
from rarefy.pruning import OneShot
from rarefy.pruning.carry_out import carry_out
from rarefy.pruning.fit import fit_patterns
from rarefy.pruning.job import Job
from rarefy.pruning.joint import one_budget
from rarefy.pruning.resolve import resolve_density, resolve_pattern, resolve_spread
from rarefy.training.ranks import apart, of_first_rank


@dataclass(frozen=True)
class WholeWeight(Site):
    """A weight all of whose rows compete, those of different groups of a convolution too, as everywhere in training."""

    @property
    def groups(self) -> int:
        return 1


def prune_weights(
    model: nn.Module,
    weights: Sequence[Site],
    name: str,
    one_shot: OneShot,
    *,
    sparsity: float | None,
    pattern: str | Pattern | None,
    allocation: str | Allocation | Search | None,
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor] | None,
    seed: int,
) -> None:
    """Prunes the weights that are to be trained, on every rank as rank 0 does.

    Each keeps one entry at least where they all compete. Raises ModelError for weights that the method cannot see.
    """
    support = resolve_pattern(pattern, one_shot.pattern)
    spread = resolve_spread(allocation, one_shot, support)
    density = resolve_density(sparsity, support, spread)
    if isinstance(spread, Global):
        spread = replace(spread, empties=False)
    needs = one_shot.solver.needs | (frozenset() if isinstance(spread, Search) else spread.needs)
    inside = _looks_inside(one_shot, needs)
    batches = as_batches(batches or None, method=name, needed=bool(needs) or inside or isinstance(spread, Search))
    if inside:
        _require_layers(name, weights)
    else:
        weights = [WholeWeight(w.name, w.modules, w.aliases, w.attribute) for w in weights]
    patterns, _ = fit_patterns(weights, support, "error", one_shot.quantize)
    job = Job(model, weights, patterns, batches, loss, seed, one_shot)
    dense = [weight.read() for weight in weights] if one_budget(one_shot.solver, support, spread) else []
    with apart(model):
        carry_out(job, spread, density, fixed_density(support) is not None)
    for weight, before in zip(weights, dense, strict=False):
        _keep_one(weight, before)
    with torch.no_grad():
        for tensor in (t for weight in weights for t in (weight.parameter, *weight.biases)):
            tensor.copy_(of_first_rank(tensor.detach()))


def _looks_inside(one_shot: OneShot, needs: frozenset[Need]) -> bool:
    """Whether the method works with layers and what enters them, where others have a formula for each weight alone."""
    by_layer = one_shot.match is not None or one_shot.finish is not None or one_shot.quantize is not None
    return by_layer or any(not need.of_the_model or need is Need.CHOSEN_MASK for need in needs)


def _require_layers(name: str, weights: Sequence[Site]) -> None:
    """Refuses weights whose inputs cannot be seen: they would stay dense."""
    unseen = [w.name for w in weights if not (w.attribute == "weight" and is_prunable(w.module))]
    if unseen:
        raise ModelError(
            f"{name}: prunes linear layers and 2-d convolutions by what enters them, and cannot see that of "
            f"{', '.join(unseen)}; leave them dense with ignore={unseen}, or take a method that has a score for every "
            'weight ("snip", "grasp", "synflow", "robust-pai", "magnitude", "random-pruning")'
        )


def _keep_one(weight: Site, before: Weight) -> None:
    """Gives a weight that a solver of all weights together has emptied its largest entry back."""
    if not bool(weight.read().any()):
        weight.write(before, keep_top(before.abs().reshape(1, -1), 1).reshape(before.shape))
