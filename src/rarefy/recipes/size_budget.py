"""A budget in bytes: how many bits and how many zeros each layer gets so that the model loses least."""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.allocations.given import Given
from rarefy.allocations.knapsack import Option, knapsack
from rarefy.calibration.batches import as_batches
from rarefy.core.errors import SparsityError
from rarefy.core.grid import Grid, QuantizeSpec, attach_grid, grid_of
from rarefy.core.protocols import Pattern, Solution
from rarefy.core.shapes import Weight
from rarefy.core.site import Site, find_sites
from rarefy.formats.codes import stored_bytes
from rarefy.formats.container import NAMING_BYTES, file_bytes, prepare
from rarefy.pruning import OneShot, PruneReport
from rarefy.pruning import prune as prune_only
from rarefy.pruning.resolve import fixed_density, resolve_method, resolve_pattern
from rarefy.pruning.rounding import with_rounding
from rarefy.pruning.sensitivity import layer_errors
from rarefy.recipes.store_codes import codes_by_name
from rarefy.recipes.store_config import is_hugging_face
from rarefy.recipes.store_state import collect
from rarefy.recipes.store_widths import widths_of
from rarefy.recipes.target_losses import Losses
from rarefy.solvers.assorted import Assorted

SPECS = (QuantizeSpec(8), QuantizeSpec(4, 16), QuantizeSpec(4))
DENSITIES = (1.0, 0.7, 0.5, 0.35, 0.25)
_REFERENCE = 0.5  # the density at which the reach of a layer's error is measured
_ROUNDS = 6
WHOLE = "kept whole: the size budget needs neither its bits nor its zeros"


@dataclass(frozen=True)
class Choice:
    """What a layer may become. spec: None leaves it as it is; loss: of the model's output, about."""

    spec: QuantizeSpec | None
    density: float
    bytes: int
    loss: float


def prune_to_size(
    model: nn.Module,
    method: str | OneShot,
    size_budget: float,
    *,
    pattern: str | Pattern | None = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
    specs: Sequence[QuantizeSpec] = SPECS,
    densities: Sequence[float] = DENSITIES,
    choices: Mapping[str, Sequence[Choice]] | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **options: Any,
) -> PruneReport:
    """Prunes and rounds `model` in place so that the weights file that `save` writes takes at most `size_budget` bytes.

    Each layer is solved alone at every bits and density (and may be left whole); the loss of a choice is the error of
    the layer's output times what the model's output makes of it (`recipes.target_losses`), its cost the bytes that a
    file needs for it. A knapsack takes the choices, the method then runs at them. Where what came out is larger than
    foreseen, the layers get less and it runs again from the dense weights.
    specs, densities: the choices; a spec whose group does not divide a layer is not offered to it. choices: those that
    `layer_choices` found for this model and method, where several budgets are tried.
    `report.budget` has the bytes and what each layer got. On any error the model is as it was. Raises SparsityError
    when the cheapest choices are too large, and says what they take.
    """
    started = time.perf_counter()
    name, one_shot = resolve_method(method, options)
    support = resolve_pattern(pattern, one_shot.pattern)
    batches = as_batches(data, method=name, needed=True)
    sites, _ = find_sites(model, ignore)
    before = [[t.detach().clone() for t in (s.parameter, *s.biases)] for s in sites]
    grids = [grid_of(s.module) for s in sites]
    if choices is None:
        choices = layer_choices(model, one_shot, support, sites, batches, specs, densities, loss=loss, seed=seed)
    rest = saved_bytes(model) - sum(4 * s.parameter.numel() for s in sites)
    room = size_budget - rest
    try:
        for attempt in range(_ROUNDS):
            chosen = _spend(choices, room, size_budget, rest)
            report = _prune(model, one_shot, support, sites, chosen, batches, loss, ignore, seed, progress)
            size = saved_bytes(model)
            if size <= size_budget:
                said = {"asked": size_budget, "bytes": size, "rounds": attempt + 1, "choices": _said(chosen)}
                spent = time.perf_counter() - started
                return replace(report, method=name, allocation="size budget", budget=said, seconds=spent)
            room -= max(size - size_budget, 1e-3 * size_budget)
            _put_back(sites, before, grids)
        raise SparsityError(
            f"size_budget: {size} bytes came out where {size_budget:.0f} were asked; ask for a little less"
        )
    except BaseException:
        _put_back(sites, before, grids)
        raise


def saved_bytes(model: nn.Module) -> int:
    """Bytes of the weights file that `save` would write now."""
    tensors, aliases = collect(model)
    widths = widths_of(model) if is_hugging_face(model) else None
    return file_bytes(prepare(tensors, aliases, codes_by_name(model, tensors), widths))


def layer_choices(
    model: nn.Module,
    one_shot: OneShot,
    pattern: Pattern,
    sites: Sequence[Site],
    batches: Sequence[Any],
    specs: Sequence[QuantizeSpec] = SPECS,
    densities: Sequence[float] = DENSITIES,
    *,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, list[Choice]]:
    """What each site may become, with the error of the method's own solutions and the bytes of their integers."""
    fixed = fixed_density(pattern)
    if fixed is not None:
        densities = (fixed,)
    near = min(densities, key=lambda d: abs(d - _REFERENCE))
    reach = Losses(model, one_shot, pattern, sites, batches, (near,), loss=loss, seed=seed).reach
    found = {s.name: [Choice(None, 1.0, 4 * s.parameter.numel(), 0.0)] for s in sites}
    for spec in specs:
        fitting = [site for site in sites if spec.why_not(site.shape[1]) is None]
        sizes: dict[tuple[str, float], int] = {}

        def note(
            site: Site, density: float, weight: Weight, solution: Solution, to: dict[tuple[str, float], int] = sizes
        ) -> None:
            assert solution.grid is not None
            to[site.name, density] = stored_bytes(solution.grid.round(solution.weight)) + NAMING_BYTES

        rounding = with_rounding(one_shot, spec)
        errors = layer_errors(model, rounding, pattern, fitting, batches, densities, loss=loss, seed=seed, seen=note)
        for (name, density), size in sizes.items():
            found[name].append(Choice(spec, density, size, errors[name][density] * reach[name]))
    return found


def _spend(choices: Mapping[str, Sequence[Choice]], room: float, asked: float, rest: int) -> dict[str, Choice]:
    """The choices of least loss that fit; every layer's own position in its list tells them apart."""
    options = {name: [Option(c.density, c.bytes, c.loss) for c in found] for name, found in choices.items()}
    chosen = knapsack(options, room)
    if chosen is None:
        least = sum(min(c.bytes for c in found) for found in choices.values())
        raise SparsityError(
            f"size_budget: {asked:.0f} bytes cannot be reached: the layers take at least {least} at the sparsest "
            f"choice offered and everything else {rest}; ask for {least + rest} or more, or offer other specs= or "
            "densities="
        )
    return {name: choices[name][options[name].index(option)] for name, option in chosen.items()}


def _prune(
    model: nn.Module,
    one_shot: OneShot,
    pattern: Pattern,
    sites: Sequence[Site],
    chosen: Mapping[str, Choice],
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor] | None,
    ignore: Sequence[str],
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> PruneReport:
    """The method at the chosen bits and densities, in one calibration pass."""
    whole = [site.name for site in sites if chosen[site.name].spec is None]
    if len(whole) == len(sites):
        return PruneReport(
            "", str(pattern), "", (), dict.fromkeys(whole, WHOLE), 0.0
        )  # the budget holds the dense model
    solvers = {n: with_rounding(one_shot, c.spec).solver for n, c in chosen.items() if c.spec is not None}
    mixed = replace(one_shot, solver=Assorted(solvers))
    spread = None if fixed_density(pattern) is not None else Given({name: c.density for name, c in chosen.items()})
    zeros = sum(s.parameter.numel() * (1.0 - chosen[s.name].density) for s in sites if s.name in solvers)
    sparsity = zeros / max(1, sum(s.parameter.numel() for s in sites if s.name in solvers))
    report = prune_only(
        model,
        mixed,
        sparsity=None if spread is None else sparsity,
        pattern=pattern,
        allocation=spread,
        data=batches,
        loss=loss,
        ignore=[*ignore, *(f"re:^{re.escape(name)}$" for name in whole)],
        seed=seed,
        progress=progress,
    )
    return replace(report, skipped={**report.skipped, **dict.fromkeys(whole, WHOLE)})


def _said(chosen: Mapping[str, Choice]) -> dict[str, dict[str, Any]]:
    """Plain data for the report."""
    return {
        name: {
            "bits": 32 if c.spec is None else c.spec.bits,
            "group": None if c.spec is None else c.spec.group,
            "density": c.density,
            "bytes": c.bytes,
            "loss": c.loss,
        }
        for name, c in chosen.items()
    }


def _put_back(sites: Sequence[Site], before: Sequence[Sequence[Tensor]], grids: Sequence[Grid | None]) -> None:
    with torch.no_grad():
        for site, values, grid in zip(sites, before, grids, strict=True):
            for tensor, value in zip((site.parameter, *site.biases), values, strict=True):
                tensor.copy_(value)
            attach_grid(site, grid)
