"""Anytime progressive pruning: data arrive in parts, and the net is pruned a little before each of them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.whole_model import collect_whole
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.evidence import Evidence
from rarefy.core.protocols import Score
from rarefy.core.registry import lookup, method
from rarefy.core.shapes import Mask
from rarefy.training.cycles import Cycle, apply, full_masks, nothing, run_cycle, snapshot, tightest
from rarefy.training.weights import find_weights

Train = Callable[[nn.Module, Cycle, list[Any]], None]
Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class AnytimeReport:
    """After each part of the data: density, and the error rate on what `error` looks at (None without it)."""

    masks: dict[str, Mask]
    densities: tuple[float, ...]
    errors: tuple[float | None, ...]

    @property
    def cumulative_error(self) -> float:
        """The sum of the error rates over time: how good the net was whenever it was asked."""
        return sum(e for e in self.errors if e is not None)


@dataclass
class _Best:
    """Keeps the best weights of a training, where something says how good they are."""

    model: nn.Module
    validate: Callable[[nn.Module], float] | None
    every: int
    found: float = -math.inf
    state: dict[str, Tensor] = field(default_factory=dict)

    def look(self, step: int) -> None:
        if self.validate is not None and step % self.every == 0:
            score = self.validate(self.model)
            if score > self.found:
                self.found, self.state = score, snapshot(self.model)

    def put_back(self) -> None:
        if self.state:
            self.model.load_state_dict(self.state)


def anytime_densities(parts: int, tau: float = 4.5, base: float = 0.8) -> list[float]:
    """`base ^ delta` for `delta` in equal steps from 1 to tau.

    >>> [round(d, 3) for d in anytime_densities(3)]
    [0.8, 0.541, 0.366]
    """
    if parts < 1 or tau < 1.0 or not 0.0 < base <= 1.0:
        raise SparsityError(f"app: parts={parts}, tau={tau}, base={base}; give parts >= 1, tau >= 1 and 0 < base <= 1")
    deltas = [1.0 + (tau - 1.0) * i / (parts - 1) for i in range(parts)] if parts > 1 else [tau]
    return [base**delta for delta in deltas]


@method(
    "app-anytime-progressive-pruning",
    role="study",
    source="Misra et al. 2022, arXiv:2204.01640, section 3",
    protocols=("schedule", "score"),
)
def anytime_pruning(
    model: nn.Module,
    train: Train,
    megabatches: Iterable[Sequence[Any]],
    *,
    parts: int,
    tau: float = 4.5,
    base: float = 0.8,
    one_shot: bool = False,
    score: str | Score = "snip",
    share: float = 0.2,
    substeps: int = 1,
    replay: bool = False,
    loss: Loss | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    validate_every: int = 100,
    error: Callable[[nn.Module], float] | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> AnytimeReport:
    """Before each part of the data arrives in training, the weights that matter least for it are pruned for good.

    megabatches: the parts, each a sequence of batches, taken one at a time; parts: how many there will be. train:
    `train(model, cycle, batches)` trains in place on the batches (with `replay` all so far), stepping with
    `cycle.attach(optimizer)`. score: a registered score, over all weights together, from the share `share` of the
    part's batches and `loss(model, batch)`; substeps: in how many passes. one_shot: prunes once, before the first part,
    to the last density. validate: larger is better, asked every `validate_every` steps; the next part begins with the
    best weights (the last ones without it). error: the error rate after each part, for the report.
    """
    chosen: Any = lookup("score", score).factory() if isinstance(score, str) else score
    densities = anytime_densities(parts, tau, base)
    if one_shot:
        densities = [densities[-1]] * parts
    generator = torch.Generator().manual_seed(seed)
    masks, density = full_masks(model, ignore), 1.0
    seen: list[Any] = []
    errors: list[float | None] = []
    for index, batches in enumerate(megabatches):
        if index >= parts:
            raise DataError(f"megabatches: there are more than the {parts} that were announced; give parts=")
        new = list(batches)
        for target in _between(density, densities[index], substeps):
            masks = _pruned(model, masks, target, chosen, _some(new, share, generator), loss, ignore)
            apply(model, masks, ignore)
        density = densities[index]
        seen = [*seen, *new] if replay else new
        best = _Best(model, validate, validate_every)
        look = nothing if validate is None else best.look
        cycle = Cycle(index, 0, seed + index, density, 0, masks, model, look, tuple(ignore))
        run_cycle(lambda net, one, data=seen: train(net, one, data), cycle)  # type: ignore[misc]
        best.put_back()
        errors.append(None if error is None else error(model))
    return AnytimeReport(masks, tuple(densities[: len(errors)]), tuple(errors))


def _between(first: float, last: float, substeps: int) -> list[float]:
    """Densities from one to another, each the same share of the one before; none where nothing is to be pruned."""
    if substeps < 1:
        raise SparsityError(f"substeps: {substeps} is not a number of passes; give at least 1")
    return [] if last >= first else [first * (last / first) ** (i / substeps) for i in range(1, substeps + 1)]


def _some(batches: list[Any], share: float, generator: torch.Generator) -> list[Any]:
    """A random share of the batches, at least one."""
    if not batches or not 0.0 < share <= 1.0:
        raise DataError(f"megabatches: a share {share} of {len(batches)} batches; give batches and 0 < share <= 1")
    order = torch.randperm(len(batches), generator=generator)[: max(1, round(share * len(batches)))]
    return [batches[i] for i in order.tolist()]


def _pruned(
    model: nn.Module,
    masks: dict[str, Mask],
    density: float,
    score: Score,
    batches: list[Any],
    loss: Loss | None,
    ignore: Sequence[str],
) -> dict[str, Mask]:
    """Tighter masks by the score on some batches."""
    sites = find_weights(model, ignore)[0]
    evidence = collect_whole(model, sites, batches, loss, score.needs)
    scores = {site.name: score(site.read(), Evidence(site.name, evidence[site.name])) for site in sites}
    return tightest(scores, masks, density)
