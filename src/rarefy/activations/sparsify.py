"""`rarefy.sparsify_activations`: the door of the training-free methods."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from rarefy.activations.hidden import saved
from rarefy.activations.job import Activations, Job, Placed
from rarefy.activations.measure import block_errors, measured, site_of
from rarefy.activations.report import ActivationReport
from rarefy.calibration.batches import Batch, as_batches, runner
from rarefy.calibration.block_trials import count_tokens
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, UnknownNameError
from rarefy.core.registry import entries, lookup
from rarefy.core.site import matches
from rarefy.selectors.attach import attached, detach
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import FeedForward, Projection, feed_forwards, projections


def sparsify_activations(
    model: nn.Module,
    method: str | Activations,
    *,
    sparsity: float,
    data: Iterable[Batch] | None = None,
    held_out: Iterable[Batch] | None = None,
    ignore: Sequence[str] = (),
    loss: Callable[[nn.Module, Batch], Any] | None = None,
    trial_tokens: int = 1024,
    seed: int = 0,
    **options: Any,
) -> ActivationReport:
    """Lets each token read only a part of the weights: attaches selectors to a transformer, in place.

    sparsity: the share of zeros asked, in [0, 1). data: batches of calibration text, as the model takes them (through
    `loss(model, batch)` where given). held_out: batches to measure the shares on. ignore: names of projections or
    feed-forward layers to leave dense: of a layer all projections, of a projection all inputs. trial_tokens: of the
    sample on which block outputs are compared.
    options: the method's own. `rarefy.selectors.detach(model)` takes the selectors off again.

    Raises SparsityError (out of range), ModelError (no feed-forward layer known, selectors there already, parameters
    on several devices), DataError (no data, or too few tokens for the share asked, with the number that is needed).
    On an error the model is as it was.
    """
    density = density_of(sparsity)
    name, chosen = _method(method, options)
    require_bare(model)
    places, layers = _places(model, ignore)
    batches = as_batches(data, method=name, needed=True)
    unseen = as_batches(held_out, method=name, needed=False, what="held_out")
    job = Job(model, places, layers, 1.0 - density, batches, runner(loss), trial_tokens, seed)
    try:
        placed = chosen(job)
        _require_any(name, placed, job)
        errors = block_errors(job)
        shares = measured(model, placed, batches, job.run)
        held = measured(model, placed, unseen, runner(loss, "held_out")) if unseen else None
    except BaseException:
        detach(model)
        for undo in reversed(job.undo):
            undo()
        raise
    sites = tuple(site_of(place, shares, held) for place in placed)
    weights = sum(weight_of(place.module).numel() for place in projections(model))
    added = sum(place.added for place in placed)
    return ActivationReport(name, 1.0 - density, sites, weights, added, errors, count_tokens(batches))


def _method(method: str | Activations, options: dict[str, Any]) -> tuple[str, Activations]:
    if not isinstance(method, str):
        if options or not isinstance(method, Activations):
            raise UnknownNameError(f"method: {method!r} is not a name; options {sorted(options)} go with names only")
        return type(method).__name__.lower(), method
    _require_method(method)
    known = [e.id for e in entries("selector") if "method" in e.protocols]
    factory = lookup("selector", method).factory
    options_of = inspect.signature(factory).parameters
    for name in options:
        if name not in options_of:
            raise UnknownNameError(f"{method}: has no option {name!r}; it has {sorted(options_of)}")
    made = factory(**options)
    if not isinstance(made, Activations):
        raise UnknownNameError(f"method: {method!r} is no method for activations; they are {known}")
    return method, made


def _require_method(name: str) -> None:
    """Says of a method that is no selector of this door how it is used."""
    others = [e for e in entries() if e.id == name and e.family == "activations"]
    if others and not any(e.role == "selector" for e in others):
        made = others[0].factory
        ways = [way for way in ("apply", "attach", "begin", "generate") if hasattr(made, way)]
        raise UnknownNameError(
            f"method: {name!r} is not for sparsify_activations; use {made.__module__}.{made.__qualname__}(...)"
            + "".join(f".{way}(model, ...)" for way in ways[:1])
        )


def require_bare(model: nn.Module) -> None:
    """Refuses a model that has selectors already, or whose parameters lie on several devices or on none."""
    for name, _, _ in attached(model):
        raise ModelError(f"{name}: has a selector already; call rarefy.selectors.detach(model) first")
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1 or devices == {"meta"}:
        raise ModelError(
            f"{type(model).__name__}: its parameters lie on {', '.join(sorted(devices))}; load it onto one device"
        )


def _places(model: nn.Module, ignore: Sequence[str]) -> tuple[list[Projection], list[FeedForward]]:
    """What is not ignored: a feed-forward layer goes with its projections, and with any that it saves."""
    patterns = (ignore,) if isinstance(ignore, str) else tuple(ignore)
    places, layers = projections(model), feed_forwards(model)
    names = [p.name for p in places] + [layer.name for layer in layers]
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            raise ModelError(f"ignore: {pattern!r} matches no projection; they are {names[:8]}...")
    parts = [m for layer in layers if matches(layer.name, patterns) for m in (layer.gate, layer.up, layer.down)]
    dense = {id(place.module) for place in places if matches(place.name, patterns)} | {id(part) for part in parts}
    kept = [place for place in places if id(place.module) not in dense]
    left = [layer for layer in layers if dense.isdisjoint(map(id, saved(layer)))]
    if not kept and not left:
        raise ModelError(f"ignore: leaves none of {len(places)} projections; nothing was attached")
    return kept, left


def _require_any(name: str, placed: Sequence[Placed], job: Job) -> None:
    if not placed:
        raise ModelError(
            f"{name}: ignore leaves nothing that it selects ({len(job.places)} projections and {len(job.layers)} whole "
            "feed-forward layers are left); nothing was attached, ignore less or use another method"
        )
