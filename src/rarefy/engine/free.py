"""Letting go of dense weights that a compiled model does not need, and getting them back."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from rarefy.engine.capture import Example
from rarefy.engine.conv_plan import ConvPlan
from rarefy.engine.plan import LayerPlan
from rarefy.engine.program import Region
from rarefy.engine.sparse_conv import SparseConv2d
from rarefy.engine.sparse_linear import SparseLinear

Call = tuple[Callable[..., Any], Example]
_Packed = SparseLinear | SparseConv2d


def free_dense(model: nn.Module, plans: Mapping[str, LayerPlan | ConvPlan], calls: Sequence[Call]) -> list[str]:
    """Empties the weights of the sites that are packed for every token count, or image; their names.

    calls: how the model will be run. A weight that a graph or a native program of theirs points at stays. Each call is
    tried without the weights before they are gone for good, and a model that fails keeps all of them (it reads a weight
    by another way than its layer).
    """
    owners, pointed = _owners(model), set().union(*(_pointed_at(run) for run, _ in calls))
    sites = [
        plan.site
        for plan in plans.values()
        if all(packed is not None for _, packed in plan.steps)
        and _place(plan.site.parameter) not in pointed
        and owners[id(plan.site.parameter)] == {id(module) for module in plan.site.modules}
    ]
    held = [site.parameter.data for site in sites]
    for site in sites:
        site.parameter.data = site.parameter.data.new_empty(0)
    try:
        with torch.inference_mode():
            for run, (args, kwargs) in calls:
                run(*args, **kwargs)
    except Exception:  # whatever a model does with an empty weight
        for site, weight in zip(sites, held, strict=True):
            site.parameter.data = weight
        return []
    return [site.name for site in sites]


def _pointed_at(run: object) -> set[int]:
    """The storages that a captured graph reads, by the nodes of its own or by the programs in it."""
    if not isinstance(run, GraphModule):
        return set()
    read = {str(node.target) for node in run.graph.nodes if node.op == "get_attr"}
    held: list[Tensor] = [tensor for name, tensor in run.named_parameters(remove_duplicate=False) if name in read]
    held += [t for m in run.modules() if isinstance(m, Region) for t in m.kept if isinstance(t, Tensor)]
    return {_place(tensor) for tensor in held}


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _owners(model: nn.Module) -> dict[int, set[int]]:
    """The modules that hold each parameter, all by identity: an embedding may share a layer's weight."""
    found: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            found.setdefault(id(parameter), set()).add(id(module))
    return found


def is_freed(layers: nn.Module) -> bool:
    """Whether dense weights of packed layers were let go."""
    return any(module.freed for module in layers.modules() if isinstance(module, _Packed))


def to_dense(layers: nn.Module) -> nn.Module:
    """A plain model with the weights of the packed layers dense again, as they are stored; the rest is shared."""
    memo: dict[int, Any] = {id(t): t for t in (*layers.parameters(), *layers.buffers())}
    memo |= {id(m.plan): m.plan for m in layers.modules() if isinstance(m, _Packed)}
    twin = copy.deepcopy(layers, memo)
    if isinstance(twin, _Packed):
        return _unpacked(twin)
    for name, module in list(twin.named_modules(remove_duplicate=False)):
        if isinstance(module, _Packed):
            parent, _, leaf = name.rpartition(".")
            setattr(twin.get_submodule(parent), leaf, _unpacked(module))
    return twin


def _unpacked(layer: _Packed) -> nn.Module:
    source, packed = layer.source, next((p for _, p in layer.plan.steps if p is not None), None)
    if packed is not None and layer.freed:
        weight = packed.to_dense()
        source.weight = nn.Parameter(weight.t().contiguous() if layer.plan.site.transposed else weight)
    return source
