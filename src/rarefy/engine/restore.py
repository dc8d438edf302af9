"""A compiled model from choices that were made before: packs, times nothing."""

from collections.abc import Callable

from torch import Tensor, nn

from rarefy.core.errors import EngineError
from rarefy.core.site import Site, find_sites
from rarefy.engine.choices import Choices
from rarefy.engine.compiled import Compiled, Variant
from rarefy.engine.explain import Explanation
from rarefy.engine.free import free_dense
from rarefy.engine.plan import LayerPlan, why_dense
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.ops import PackedWeight, pack


def restored(
    model: nn.Module, choices: Choices, weight_of: Callable[[Site], Tensor], explanation: Explanation
) -> Compiled:
    """The model with its layers packed for the chosen kernels, run layer by layer.

    weight_of: the float32 weight (out, in) of a site, asked for one site at a time; the model itself need not hold
    those that are sparse at every token count, and does not afterwards. Raises EngineError for a choice that does not
    fit the model.
    """
    sites = {site.name: site for site in find_sites(model)[0]}
    plans: dict[str, LayerPlan] = {}
    for name, steps in choices.kernels.items():
        site = sites.get(name)
        why = "it is no layer of the model" if site is None else why_dense(site, 1.0, choices.precision)
        if site is None or why is not None:
            raise EngineError(f"load: a kernel was chosen for {name!r}, but {why}; compile the model again")
        scale = choices.scales.get(name)
        weight = choices.precision.stored(weight_of(site), scale)
        packs: dict[str, PackedWeight] = {}
        for kernel in {kernel for _, kernel in steps if kernel is not None}:
            packs[kernel] = pack(weight, kernel, input_scale=scale)
        plans[name] = LayerPlan(site, tuple((limit, packs.get(kernel or "")) for limit, kernel in steps))
    layers = with_sparse_layers(model, plans) if plans else model
    ways = zip(choices.examples, choices.runs, strict=True)
    variants = [
        Variant(example, model, run) if run == "source" else Variant(example, layers, "layers") for example, run in ways
    ]
    if not choices.needs_source:
        free_dense(model, plans, [])
    return Compiled(model, layers, variants, explanation, choices.threads, choices)
