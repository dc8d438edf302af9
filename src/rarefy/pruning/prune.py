"""The one-shot door: in place, all or nothing, with a report."""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from rarefy.calibration import as_batches
from rarefy.core.errors import unknown_name
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.site import OTHER_CONVOLUTIONS, RECURRENT, find_sites
from rarefy.core.split_attention import packed_projections
from rarefy.patterns.fixed import fixed_density
from rarefy.pruning.carry_out import all_or_nothing, carry_out, own_modes
from rarefy.pruning.fit import fit_patterns
from rarefy.pruning.job import Job, Progress
from rarefy.pruning.one_shot import OneShot
from rarefy.pruning.repair import with_repair
from rarefy.pruning.report import PruneReport, SiteReport
from rarefy.pruning.resolve import (
    name_of,
    resolve_density,
    resolve_method,
    resolve_pattern,
    resolve_spread,
)
from rarefy.pruning.rounding import with_rounding

_NO_LAYER = "part of an nn.MultiheadAttention, no layer of its own; rarefy.split_attention(model) makes it one"


def prune(
    model: nn.Module,
    method: str | OneShot,
    *,
    sparsity: float | None = None,
    pattern: str | Pattern | None = None,
    allocation: str | Allocation | Search | None = None,
    data: Iterable[Any] | None = None,
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
    undivided: str = "error",
    repair: str | None = None,
    quantize: QuantizeSpec | None = None,
    zeros: str = "keep",
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> PruneReport:
    """Prunes the linear and convolutional layers of `model` in place and reports what it did.

    method: a registered name (`rarefy methods`) or a OneShot; options: the method's own (e.g. damping=0.1).
    sparsity: fraction of zeros over the pruned layers, in [0, 1); N:M patterns fix it.
    pattern: "unstructured" | "layerwise" | "rowwise" | "fanin" | "2:4" | "block:4x1" | an object.
    allocation: "uniform" | "erk" | "er" | "global" | "lamp" | "owl" | "ecoflap" | "sensitivity" |
    "random-search" | "evolution" (these two try allocations on the model, by `loss` or by its own output) | an object.
    data: batches of model inputs (a tensor, a tuple, or a dict of keyword arguments each); with `loss`, whatever
    `loss(model, batch)` understands. ignore: names, shell patterns, prefixes or "re:..." of layers left alone.
    undivided: of a layer that the pattern's tile does not divide: "error" | "skip" | "pad" (N:M only).
    repair: what is done after any method: "weights", "bias" (least squares), "block" (gradient descent on the output
    of each block, masks fixed), or several joined by "+".
    quantize: also rounds the kept weights to integers with scales (`QuantizeSpec(bits=4, group=128)`), in the method's
    own sweep where it has one; `rarefy.compile` and `rarefy.save` then use these integers.
    zeros: weights that are zero already stay zero and count towards the sparsity, whatever the method. Where they do
    not fit the pattern, "keep" leaves them as holes in it and the report says so, "fit" is an error.
    seed: of anything random. progress: called after each layer.

    On any error the model is put back as it was.
    """
    started = time.perf_counter()
    if zeros not in ("keep", "fit"):
        raise unknown_name("zeros", zeros, ("keep", "fit"))
    name, one_shot = resolve_method(method, options)
    support = resolve_pattern(pattern, one_shot.pattern)
    spread = resolve_spread(allocation, one_shot, support)
    density = resolve_density(sparsity, support, spread)
    one_shot, match = with_repair(one_shot, repair, quantize)
    one_shot = with_rounding(one_shot, quantize)
    tried = isinstance(spread, Search)
    needs = one_shot.solver.needs | (frozenset() if isinstance(spread, Search) else spread.needs)
    batches = as_batches(
        data, method=name, needed=bool(needs) or tried or match is not None or one_shot.finish is not None
    )
    sites, ignored = find_sites(model, ignore)
    patterns, misfits = fit_patterns(sites, support, undivided, one_shot.quantize)
    sites = [site for site in sites if site.name in patterns]
    job = Job(model, sites, patterns, batches, loss, seed, one_shot, progress, match, zeros == "fit")
    with own_modes(sites), all_or_nothing(sites):
        work = carry_out(job, spread, density, fixed_density(support) is not None)
    skipped = dict.fromkeys(ignored, "ignored as asked") | misfits
    skipped |= dict.fromkeys(packed_projections(model), _NO_LAYER) | _of_other_kinds(model)
    reports = tuple(work.reports.values())
    _tell_of_empty(name, reports)
    return PruneReport(name, name_of(support), name_of(spread), reports, skipped, time.perf_counter() - started)


def _of_other_kinds(model: nn.Module) -> dict[str, str]:
    """Layers with weights that `prune` takes no part in, and why. Embeddings are none: they are looked up."""
    return {
        path or type(module).__name__: f"a {type(module).__name__}: prune takes linear layers, 2-d convolutions and "
        "transformers' Conv1D; rarefy.sparse_training trains it sparse"
        for path, module in model.named_modules()
        if isinstance(module, (*OTHER_CONVOLUTIONS, *RECURRENT))
    }


def _tell_of_empty(name: str, reports: Sequence[SiteReport]) -> None:
    """Warns of layers of which nothing is left, though something was to be: a small share of a row rounds to none."""
    empty = [row.name for row in reports if row.zeros == row.size and row.asked < 1.0 and row.already < row.size]
    if empty:
        warnings.warn(
            f"prune, {name}: no weight is left of {', '.join(empty)}, whose outputs are constant now: what was to be "
            "kept of a row or of the layer rounds to nothing; ask for less sparsity, leave small layers alone with "
            'ignore=[...], or let all rows compete with pattern="layerwise"',
            UserWarning,
            stacklevel=3,
        )
