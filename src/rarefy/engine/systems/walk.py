"""A model whose layers run with one published system, wherever it can hold them."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from rarefy.core.errors import EngineError, WeightError
from rarefy.core.registry import lookup
from rarefy.core.site import Site, find_sites
from rarefy.engine.conv_plan import ConvPlan
from rarefy.engine.plan import LayerPlan
from rarefy.engine.sparse_conv import with_sparse_convs
from rarefy.engine.sparse_linear import with_sparse_layers
from rarefy.ops import PackedConv, PackedWeight, Window, window_of


@runtime_checkable
class LinearSystem(Protocol):
    """Packs weights (out, in) of linear layers."""

    def fits(self, weight: Tensor) -> str | None: ...
    def pack(self, weight: Tensor) -> PackedWeight: ...


@runtime_checkable
class ConvSystem(Protocol):
    """Packs weights (out, in / groups, height, width) of convolutions."""

    def fits(self, weight: Tensor) -> str | None: ...
    def pack_conv(self, weight: Tensor, window: Window) -> PackedConv: ...


def with_system(model: nn.Module, system: str | LinearSystem | ConvSystem, **options: Any) -> nn.Module:
    """A copy for inference, with packed weights in place of every layer that the system can hold; the rest is shared.

    system: a registered id (`rarefy methods --role kernel`) with its options, or an instance. Nothing is timed: use
    `rarefy.compile` for what is fastest. Layers whose weight is computed from others (weight_norm, ...) stay as they
    are. Raises EngineError where no layer fits, with the first reason, and WeightError for NaN or infinity in a weight
    that is rounded to integers.
    """
    chosen = lookup("kernel", system).factory(**options) if isinstance(system, str) else system
    model.eval()
    linears: dict[str, LayerPlan] = {}
    convs: dict[str, ConvPlan] = {}
    left: list[str] = []
    for site in find_sites(model, leave_computed=True)[0]:
        why, weight = _why_not(chosen, site), _weight(site)
        if why is not None:
            left.append(f"{site.name}: {why}")
        elif isinstance(chosen, ConvSystem):
            assert isinstance(site.module, nn.Conv2d)
            window = window_of(site.module) or Window()
            convs[site.name] = ConvPlan(site, window, (((1, 1, 1), chosen.pack_conv(weight, window)),))
        else:
            linears[site.name] = LayerPlan(site, ((1, _packed(chosen, site, weight)),))
    if not linears and not convs:
        first = left[0] if left else "there is no linear layer and no convolution"
        raise EngineError(f"with_system: {type(chosen).__name__} holds no layer of this model ({first})")
    return with_sparse_convs(with_sparse_layers(model, linears), convs)


def _packed(chosen: LinearSystem, site: Site, weight: Tensor) -> PackedWeight:
    try:
        return chosen.pack(weight)
    except WeightError as error:
        raise WeightError(f"with_system: {site.name}: {error}") from error


def _weight(site: Site) -> Tensor:
    weight = site.parameter.detach()
    return weight.t().contiguous() if site.transposed else weight


def _why_not(chosen: LinearSystem | ConvSystem, site: Site) -> str | None:
    """The reason to leave a layer as it is."""
    if isinstance(site.module, nn.Conv2d) != isinstance(chosen, ConvSystem):
        return "a convolution" if isinstance(site.module, nn.Conv2d) else "a linear layer"
    if isinstance(site.module, nn.Conv2d) and window_of(site.module) is None:
        return "its padding is not of zeros on both sides alike"
    return chosen.fits(_weight(site))
