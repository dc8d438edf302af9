"""What was asked of a streamed pruning, resolved; and why some of it cannot be done one block at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rarefy.core.errors import EvidenceError, ModelError, SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.joint import JointSolver
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.site import Site
from rarefy.core.topk import exact_count
from rarefy.pruning import OneShot
from rarefy.pruning.one_shot import BlockFit
from rarefy.pruning.repair import with_repair
from rarefy.pruning.resolve import name_of, resolve_density, resolve_method, resolve_pattern, resolve_spread

_INSTEAD = (
    "load the model and use rarefy.prune, or choose one that needs only layer inputs (wanda, sparsegpt, alps, ...)"
)


@dataclass(frozen=True)
class Asked:
    """A method, where it may keep weights, how much, and how that is spread."""

    name: str
    one_shot: OneShot
    match: BlockFit | None
    pattern: Pattern
    spread: Allocation
    density: float

    @classmethod
    def of(
        cls,
        method: str | OneShot,
        sparsity: float | None,
        pattern: object,
        allocation: object,
        repair: str | None,
        options: dict[str, Any],
    ) -> "Asked":
        """The words resolved. Raises what `rarefy.prune` raises, and EvidenceError for what needs the whole model."""
        name, one_shot = resolve_method(method, options)
        support = resolve_pattern(pattern, one_shot.pattern)
        _refuse_whole_model(name, one_shot)
        spread = resolve_spread(allocation, one_shot, support)
        if isinstance(spread, Search) or spread.needs:
            raise _bad_spread(spread, "looks at the whole model before the first layer is pruned")
        density = resolve_density(sparsity, support, spread)
        one_shot, match = with_repair(one_shot, repair)
        return cls(name, one_shot, match, support, spread, density)

    @property
    def walks(self) -> bool:
        """Whether data have to run through the model."""
        return bool(self.one_shot.solver.needs) or self.match is not None

    def densities(self, sites: Sequence[Site]) -> Mapping[str, float]:
        """{site: density}, from the shapes alone."""
        try:
            chosen = self.spread(sites, self.density, {site.name: Evidence(site.name) for site in sites})
        except ModelError as error:  # a weight was read, but none is loaded
            raise _bad_spread(self.spread, "ranks the weights of all layers together") from error
        for site in sites:  # a density out of range fails here, before anything is written
            exact_count(site.shape[0] * site.shape[1], chosen[site.name])
        return chosen


def _refuse_whole_model(name: str, one_shot: OneShot) -> None:
    whole = sorted(need.name for need in one_shot.solver.needs if need.of_the_model)
    if whole:
        raise EvidenceError(
            f"{name}: needs {', '.join(whole)} of the whole model, but only a block is in memory; {_INSTEAD}"
        )
    if Need.WANTED_CROSS in one_shot.solver.needs:
        raise EvidenceError(
            f"{name}: aims at the outputs of a dense twin, which is not kept here; leave out corrected="
        )
    if isinstance(one_shot.solver, JointSolver) or one_shot.learner is not None:
        raise EvidenceError(f"{name}: decides over all layers together, but only a block is in memory; {_INSTEAD}")
    if one_shot.finish is not None:
        raise EvidenceError(f"{name}: ends with a look at the whole model, and only a block is in memory; {_INSTEAD}")
    if one_shot.quantize is not None:
        raise SparsityError(f"{name}: rounds to integers, but weights keep the types of the source; {_INSTEAD}")
    if one_shot.rounds > 1:
        raise SparsityError(f"{name}: rounds={one_shot.rounds} walk the model so often; give rounds=1 here")


def _bad_spread(spread: object, why: str) -> EvidenceError:
    return EvidenceError(
        f"allocation: {name_of(spread)} {why}, but only a block is in memory; use uniform, er, erk, or the densities "
        "of a smaller run as allocations.given.Given"
    )
