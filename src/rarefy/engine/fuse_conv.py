"""Rewriting a captured graph: a convolution takes in the batch norm, the addition and the activation that follow it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from rarefy.engine.conv_choices import Image, Pack, WantedConv, packed_here
from rarefy.engine.conv_plan import ConvPlan
from rarefy.engine.fuse_norm import value_of
from rarefy.engine.fuse_pool import fuse_pools
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8
from rarefy.engine.plan import plans_by_weight
from rarefy.ops import PackedConv, available
from rarefy.ops.conv8 import PackedConv8

_aten = torch.ops.aten
_ACTIVATIONS = {
    _aten.relu.default: "relu",
    _aten.relu_.default: "relu",
    _aten.relu6.default: "relu6",
    _aten.silu.default: "silu",
    _aten.silu_.default: "silu",
    _aten.hardswish.default: "hardswish",
    _aten.hardswish_.default: "hardswish",
}
Weights = Mapping[str, Callable[[], Tensor]]  # by the name in the graph, of those that its parameters do not hold
_NONE: Weights = MappingProxyType({})


@dataclass(frozen=True)
class _Chain:
    """A convolution and what it takes in: nodes in order, the last one is what the rest of the graph reads.

    norm: what tells the factors of a batch norm that the weight takes in from others; empty without one.
    """

    conv: Node
    weight: Callable[[], Tensor]
    shape: tuple[int, int, int, int]
    bias: Tensor | None
    norm: str = ""
    residual: Node | None = None
    activation: str = "none"
    nodes: tuple[Node, ...] = field(default=())

    @property
    def last(self) -> Node:
        return self.nodes[-1] if self.nodes else self.conv


def _constant(graph: GraphModule, node: object) -> Tensor | None:
    """The tensor that a node reads from the module."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value = attrgetter(str(node.target))(graph)
    return value.detach() if isinstance(value, Tensor) else None


def _only_user(node: Node) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _with_norm(graph: GraphModule, chain: _Chain) -> _Chain:
    """Batch norm in evaluation mode is a scale and a shift of each channel: w g / s, (b - mean) g / s + shift."""
    norm = _only_user(chain.last)
    if norm is None or norm.target is not _aten.batch_norm.default or norm.args[0] is not chain.last or norm.args[5]:
        return chain
    scale, shift, mean, var = (_constant(graph, a) for a in norm.args[1:5])
    eps = norm.args[7]
    if mean is None or var is None or not isinstance(eps, float) or mean.dtype != torch.float32:
        return chain
    factor = (var.double() + eps).rsqrt() * (1.0 if scale is None else scale.double())
    bias = ((0.0 if chain.bias is None else chain.bias.double()) - mean.double()) * factor
    bias = bias if shift is None else bias + shift.double()
    told = hashlib.sha256(factor.contiguous().numpy().tobytes()).hexdigest()[:16]
    weight = partial(_scaled, chain.weight, factor)
    return replace(chain, weight=weight, bias=bias.float(), norm=told, nodes=(*chain.nodes, norm))


def _scaled(weight: Callable[[], Tensor], factor: Tensor) -> Tensor:
    return (weight().double() * factor[:, None, None, None]).float()


def _with_residual(chain: _Chain) -> _Chain:
    total = _only_user(chain.last)
    if total is None or total.target not in (_aten.add.Tensor, _aten.add_.Tensor) or total.kwargs.get("alpha", 1) != 1:
        return chain
    a, b = total.args[:2]
    other = b if a is chain.last else a
    mine, theirs = value_of(chain.last), value_of(other)
    if not isinstance(other, Node) or other is chain.last or mine is None or theirs is None:
        return chain
    if total.target is _aten.add_.Tensor and (a is not chain.last or len(total.users) == 0):
        return chain  # another tensor would be written to
    if str(tuple(mine.shape)) != str(tuple(theirs.shape)) or theirs.dtype != torch.float32:
        return chain
    return replace(chain, residual=other, nodes=(*chain.nodes, total))


def _activation_of(node: Node) -> str | None:
    if node.target in (_aten.hardtanh.default, _aten.hardtanh_.default):
        return "relu6" if tuple(node.args[1:]) in ((0, 6), (0.0, 6.0)) else None
    if node.target is _aten.gelu.default:
        return "gelu" if len(node.args) == 1 and node.kwargs.get("approximate", "none") == "none" else None
    return next((name for kind, name in _ACTIVATIONS.items() if node.target is kind), None)


def _with_activation(chain: _Chain) -> _Chain:
    user = _only_user(chain.last)
    name = None if user is None else _activation_of(user)
    if user is None or name is None:
        return chain
    return replace(chain, activation=name, nodes=(*chain.nodes, user))


def _chain_of(graph: GraphModule, conv: Node, elsewhere: Weights) -> _Chain | None:
    weight = _constant(graph, conv.args[1])
    given = conv.args[2] if len(conv.args) > 2 else None
    bias = _constant(graph, given)
    if weight is None or weight.dtype != torch.float32 or (given is not None and bias is None):
        return None
    out, into, high, wide = weight.shape
    held = elsewhere.get(str(conv.args[1].target), partial(_as_it_is, weight))  # type: ignore[union-attr]
    return _Chain(conv, held, (out, into, high, wide), bias)


def _as_it_is(weight: Tensor) -> Tensor:
    return weight


def _replace(graph: GraphModule, chain: _Chain, packed: PackedConv | PackedConv8, number: int) -> None:
    """packed: the weight with its batch norm."""
    name = f"rarefy_conv_{number}"
    if isinstance(packed, PackedConv8):
        graph.add_submodule(name, FusedConv8(packed, chain.bias, chain.activation))
    else:
        graph.add_submodule(name, FusedConv2d(packed, chain.bias, chain.activation))
    args = (chain.conv.args[0],) if chain.residual is None else (chain.conv.args[0], chain.residual)
    with graph.graph.inserting_before(chain.last):
        fused = graph.graph.call_module(name, args)
    fused.meta.update(chain.last.meta)
    chain.last.replace_all_uses_with(fused)
    for node in reversed((chain.conv, *chain.nodes)):
        graph.graph.erase_node(node)


def _fold(graph: GraphModule, chain: _Chain, number: int) -> None:
    """A convolution that stays with torch still takes in its batch norm."""
    names = {f"rarefy_folded_{number}_{part}": t for part, t in (("weight", chain.weight()), ("bias", chain.bias))}
    with graph.graph.inserting_before(chain.conv):
        for name, tensor in names.items():
            graph.register_buffer(name, tensor)
        weight, bias = (graph.graph.get_attr(name) for name in names)
    chain.conv.args = (chain.conv.args[0], weight, bias, *chain.conv.args[3:])
    chain.last.replace_all_uses_with(chain.conv)
    for node in reversed(chain.nodes):
        graph.graph.erase_node(node)


def fuse_convs(
    graph: GraphModule,
    plans: Mapping[str, ConvPlan],
    images: Mapping[str, Image],
    *,
    pack: Pack = packed_here,
    elsewhere: Weights = _NONE,
) -> list[str]:
    """Replaces the convolutions whose plan is native at these images; returns the sites replaced.

    What only the convolution's result goes through is computed by the kernel: batch norm of evaluation mode (folded
    into weight and bias), the addition of a tensor of the same shape, an activation. Batch norms behind the other
    convolutions are folded too. pack: how weights are had packed; elsewhere: weights that the graph does not hold.
    """
    by_weight = plans_by_weight(graph, plans)
    done = []
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.target not in (_aten.conv2d.default, _aten.conv2d.padding):
            continue
        chain = _chain_of(graph, node, elsewhere)
        if chain is None:
            continue
        plan = by_weight.get(str(node.args[1].target))
        like = plan.at(images[plan.site.name]) if plan is not None and plan.site.name in images else None
        chain = _with_norm(graph, chain)
        if plan is None or like is None:
            if chain.nodes:
                _fold(graph, chain, number)
            continue
        chain = _with_activation(_with_residual(chain))
        wanted = WantedConv(plan.site.name, like.kernel, chain.shape, like.window, chain.weight, chain.norm)
        _replace(graph, chain, pack(wanted), number)
        done.append(plan.site.name)
    if done and available():
        fuse_pools(graph)
    return done
