"""The public pruning door: prunes, then times the pruned layers against dense on this machine."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, inference, runner
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec
from rarefy.core.protocols import Allocation, Pattern, Search
from rarefy.core.site import Site, find_sites
from rarefy.engine.explain import LayerRow
from rarefy.engine.plan import Planner, tokens_of
from rarefy.pruning import OneShot, PruneReport
from rarefy.pruning import prune as prune_only
from rarefy.recipes.size_budget import prune_to_size
from rarefy.recipes.target import prune_to_speed

_TOKENS_WITHOUT_DATA = 128


def prune(
    model: nn.Module,
    method: str | OneShot,
    *,
    sparsity: float | None = None,
    target_speedup: float | None = None,
    size_budget: float | None = None,
    example_inputs: Any = None,
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
    measure: bool = True,
    weights: str = "fp32",
    activations: str = "fp32",
    **options: Any,
) -> PruneReport:
    """Prunes `model` in place (see `rarefy.pruning.prune` for every argument) and reports what it brings.

    measure: time each distinct pruned layer, dense torch against the best native kernel, at the token count of the
    first batch of `data` (128 without data); `report.timing` holds the result.

    target_speedup: instead of a sparsity, how many times faster than dense torch the compiled model has to be at
    `example_inputs` (by default the first batch of `data`), compiled with the types `weights` and `activations`: see
    `rarefy.recipes.target`. size_budget: instead of both, the bytes that the file of `rarefy.save` may take: bits and
    zeros of each layer are chosen together, see `rarefy.recipes.size_budget`.
    """
    if size_budget is not None:
        others = (sparsity, target_speedup, allocation, repair, quantize)
        if any(other is not None for other in others) or undivided != "error":
            raise SparsityError(
                "prune: size_budget chooses bits and zeros itself; leave out sparsity=, target_speedup=, allocation=, "
                "quantize=, repair= and undivided="
            )
        return prune_to_size(
            model, method, size_budget, pattern=pattern, data=data, loss=loss, ignore=ignore, seed=seed, **options
        )
    if target_speedup is not None:
        if sparsity is not None:
            raise SparsityError("prune: sparsity and target_speedup exclude each other; give the one that matters")
        if (repair, quantize, undivided, zeros) != (None, None, "error", "keep") or isinstance(allocation, Search):
            raise SparsityError(
                "prune: target_speedup takes none of repair=, quantize=, undivided=, zeros= and no search; drop them"
            )
        return prune_to_speed(
            model,
            method,
            target_speedup,
            pattern=pattern,
            allocation=allocation,
            data=data,
            example_inputs=example_inputs,
            loss=loss,
            ignore=ignore,
            seed=seed,
            weights=weights,
            activations=activations,
            **options,
        )
    if (weights, activations) != ("fp32", "fp32"):
        raise SparsityError(
            f"prune: weights={weights!r} and activations={activations!r} are the types of a measured target_speedup; "
            "give one, or leave them out and name them in rarefy.compile"
        )
    batches = data if data is None else as_batches(data, method=str(method), needed=False)
    report = prune_only(
        model,
        method,
        sparsity=sparsity,
        pattern=pattern,
        allocation=allocation,
        data=batches,
        loss=loss,
        ignore=ignore,
        undivided=undivided,
        repair=repair,
        quantize=quantize,
        zeros=zeros,
        seed=seed,
        **options,
    )
    if not measure:
        return report
    return replace(report, timing=time_layers(model, batches or [], loss, ignore))


def time_layers(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """Milliseconds of the pruned layers, summed over the layers that have a sparse kernel, and a row a layer.

    tokens: rows of input that most layers saw; layers without a sparse kernel are in `rows` with the reason.
    """
    sites, _ = find_sites(model, ignore)
    counts = _counts(model, sites, batches, loss)
    planner = Planner()
    for site in sites:
        planner.plan(site, [counts[site.name]])
    timed = [row for row in planner.rows if row.dense_ms is not None and row.sparse_ms is not None]
    dense = sum(row.dense_ms or 0.0 for row in timed)
    sparse = sum(row.sparse_ms or 0.0 for row in timed)
    return {
        "tokens": max(counts.values(), key=list(counts.values()).count),
        "dense_ms": dense,
        "sparse_ms": sparse,
        "speedup": dense / sparse if sparse else 1.0,
        "rows": [_row(row) for row in planner.rows],
    }


def _counts(
    model: nn.Module, sites: Sequence[Site], batches: Sequence[Any], loss: Callable[[nn.Module, Any], Tensor] | None
) -> dict[str, int]:
    if not batches:
        return {site.name: _TOKENS_WITHOUT_DATA for site in sites}
    with inference(model):
        seen = tokens_of(model, sites, lambda: runner(loss)(model, batches[0], 0))
    return {site.name: seen.get(site.name, _TOKENS_WITHOUT_DATA) for site in sites}


def _row(row: LayerRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "shape": list(row.shape),
        "sparsity": row.sparsity,
        "tokens": row.tokens,
        "kernel": row.kernel,
        "dense_ms": row.dense_ms,
        "sparse_ms": row.sparse_ms,
        "reason": row.reason,
    }
