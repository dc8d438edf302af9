"""A compiled model from choices that were made before: packs, times nothing."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.core.grid import codes_of
from rarefy.core.quantized import InputScale, QuantizedWeight
from rarefy.core.site import Site, find_sites
from rarefy.engine.capture import Captures
from rarefy.engine.choices import Choices
from rarefy.engine.compiled import Compiled
from rarefy.engine.explain import Explanation
from rarefy.engine.free import free_dense
from rarefy.engine.plan import LayerPlan, why_dense
from rarefy.engine.precision import Precision
from rarefy.engine.restore_conv import conv_key, conv_model
from rarefy.engine.shared import Wanted, packs_of
from rarefy.engine.shared_build import through_file
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.engine.variant import Variant
from rarefy.ops import PackedWeight, kernels


@dataclass(frozen=True)
class StoredWeights:
    """The float32 weights (out, in) of a saved model, asked for one at a time.

    of: of a site; lasts: whether it can be asked again when the model's own is gone; fingerprint: equal for models of
    equal content, None where nothing says so.
    """

    of: Callable[[Site], Tensor]
    lasts: Callable[[Site], bool]
    fingerprint: str | None = None


@dataclass(frozen=True)
class _Source:
    """A weight as it is handed to `pack`."""

    site: Site
    stored: StoredWeights
    precision: Precision
    scale: InputScale | None = None

    def __call__(self) -> Tensor | QuantizedWeight:
        return self.precision.stored(self.stored.of(self.site), self.scale, codes_of(self.site.module))


def restored(model: nn.Module, choices: Choices, stored: StoredWeights, explanation: Explanation) -> Compiled:
    """The model with its layers packed for the chosen kernels, run layer by layer; one with native convolutions runs as
    the graph that was chosen.

    The model itself need not hold the weights that are sparse at every token count, and does not afterwards. Packed
    weights lie in a file that processes share, where they can (`engine.shared`). Raises EngineError for a choice that
    does not fit the model.
    """
    model.eval()  # a fresh one trains: its dropout and batch norms would be other functions
    sites = {site.name: site for site in find_sites(model, leave_computed=True, needed=False)[0]}
    for name in choices.kernels:
        _require_fitting(name, sites.get(name), choices)
    packs = _packs(sites, choices, stored)
    plans = {
        name: LayerPlan(sites[name], tuple((limit, packs.get((name, kernel or ""))) for limit, kernel in steps))
        for name, steps in choices.kernels.items()
    }
    if choices.convs is not None:
        weights = {name: partial(stored.of, sites[name]) for name in choices.convs.kernels if name in sites}
        build = partial(
            conv_model, model=model, sites=sites, plans=plans, choices=choices, weights=weights, captures=Captures()
        )
        made = through_file(build, conv_key(choices, stored.fingerprint))
        if not choices.needs_source:
            free_dense(model, {**plans, **made.plans}, [])
        said = replace(explanation, notes=(*explanation.notes, *made.notes))
        return Compiled(model, made.layers, made.variants, said, choices.threads, choices)
    layers = with_sparse_layers(model, plans) if plans else model
    ways = zip(choices.examples, choices.runs, strict=True)
    variants = [
        Variant(example, model, run) if run == "source" else Variant(example, layers, "layers") for example, run in ways
    ]
    if not choices.needs_source:
        free_dense(model, plans, [])
    return Compiled(model, layers, variants, explanation, choices.threads, choices)


def _require_fitting(name: str, site: Site | None, choices: Choices) -> None:
    why = "it is no layer of the model" if site is None else why_dense(site, 1.0, choices.precision)
    if why is None:
        why = _of_other_types(_kernels(choices.kernels[name]), choices.precision)
    if why is not None:
        raise EngineError(f"load: a kernel was chosen for {name!r}, but {why}; compile the model again")


def _of_other_types(names: list[str], precision: Precision) -> str | None:
    """What is wrong with kernels that would compute in other types than the model was compiled for."""
    for kernel in kernels():
        fits = kernel.weights == precision.weights and kernel.activations in ("fp32", precision.activations)
        if kernel.name in names and not fits:
            return f"{kernel.name} takes {kernel.weights} weights and {kernel.activations} inputs, not {precision}"
    return None


def _packs(sites: Mapping[str, Site], choices: Choices, stored: StoredWeights) -> dict[tuple[str, str], PackedWeight]:
    """By site and kernel."""
    pairs = [(name, kernel) for name, steps in choices.kernels.items() for kernel in _kernels(steps)]
    wanted = [
        Wanted(
            name,
            kernel,
            sites[name].shape,
            choices.scales.get(name),
            _Source(sites[name], stored, choices.precision, choices.scales.get(name)),
            stored.lasts(sites[name]),
        )
        for name, kernel in pairs
    ]
    return dict(zip(pairs, packs_of(wanted, _key(sites, choices, stored)), strict=True))


def _kernels(steps: tuple[tuple[int, str | None], ...]) -> list[str]:
    return list(dict.fromkeys(kernel for _, kernel in steps if kernel is not None))


def _key(sites: Mapping[str, Site], choices: Choices, stored: StoredWeights) -> dict[str, Any] | None:
    """What the packed weights depend on besides the machine; of the scales of inputs that is the factors only."""
    if stored.fingerprint is None:
        return None
    kernels = {name: [_kernels(steps), sites[name].transposed] for name, steps in choices.kernels.items()}
    factors = {name: choices.scales[name].factors for name in sorted(choices.scales)}
    folded = hashlib.sha256(json.dumps(factors).encode()).hexdigest()
    precision = asdict(choices.precision)
    return {"weights": stored.fingerprint, "kernels": kernels, "precision": precision, "folded": folded}
