"""Rewriting a captured graph: sparse layers become packed operations with bias and activation fused in, and what
stands between them becomes native operations too."""

from collections.abc import Mapping, Sequence

import torch
from torch.fx import GraphModule, Node

from rarefy.engine.fuse_attention import fuse_attention
from rarefy.engine.fuse_norm import fuse_norms, value_of
from rarefy.engine.plan import LayerPlan, plans_by_weight
from rarefy.engine.program.masks import simplify_masks
from rarefy.ops import available

_aten = torch.ops.aten
_FRESH = (_aten.add.Tensor, _aten.mul.Tensor, _aten.embedding.default, _aten.linear.default)  # memory of their own


def _activation(node: Node) -> str | None:
    """The fused name of an activation node, None if it is no activation that the kernels have."""
    if node.target is _aten.gelu.default:
        tanh = node.kwargs.get("approximate", "none") == "tanh" or (len(node.args) > 1 and node.args[1] == "tanh")
        return "gelu_tanh" if tanh else "gelu"
    if node.target is _aten.relu.default:
        return "relu"
    return "silu" if node.target is _aten.silu.default else None


def drop_no_ops(graph: GraphModule) -> int:
    """Removes dropout of evaluation mode and checks of the tracer; returns how many nodes went."""
    gone = 0
    for node in list(graph.graph.nodes):
        if node.target is _aten.dropout.default and node.args[2] is False:
            node.replace_all_uses_with(node.args[0])
        elif node.target is not _aten._assert_tensor_metadata.default or node.users:
            continue
        graph.graph.erase_node(node)
        gone += 1
    return gone


def sums_of_their_own(graph: GraphModule) -> int:
    """Sums written over a tensor that nothing else reads become ordinary ones, which the other rewritings know."""
    done = 0
    for node in graph.graph.nodes:
        if node.target is not _aten.add_.Tensor or not isinstance(node.args[0], Node) or node.kwargs:
            continue
        over, value, other = node.args[0], value_of(node), value_of(node.args[1])
        alone = over.target in _FRESH and list(over.users) == [node]
        if alone and value is not None and other is not None and value.dtype == other.dtype:
            node.target = _aten.add.Tensor
            done += 1
    return done


def _weight_name(node: Node) -> str | None:
    """The dotted parameter path that a linear node takes its weight from."""
    weight = node.args[1]
    return str(weight.target) if isinstance(weight, Node) and weight.op == "get_attr" else None


def fuse(graph: GraphModule, plans: Mapping[str, LayerPlan], tokens: Mapping[str, int]) -> list[str]:
    """Replaces the linear nodes whose plan is sparse at these token counts; returns the sites replaced.

    An activation that is the only user of a linear node is computed by the kernel.
    """
    by_weight = plans_by_weight(graph, plans)
    done = []
    for node in list(graph.graph.nodes):
        plan = by_weight.get(_weight_name(node) or "") if node.target is _aten.linear.default else None
        packed = plan.at(tokens[plan.site.name]) if plan is not None else None
        if plan is None or packed is None:
            continue
        users = list(node.users)
        activation = _activation(users[0]) if len(users) == 1 else None
        bias = node.args[2] if len(node.args) > 2 else None
        last = users[0] if activation else node
        with graph.graph.inserting_before(last):
            args = (node.args[0], packed.handle, bias, activation or "none", plan.site.shape[0])
            fused = graph.graph.call_function(torch.ops.rarefy.packed_linear.default, args)
        fused.meta.update(last.meta)
        last.replace_all_uses_with(fused)
        graph.graph.erase_node(last)
        if activation:
            graph.graph.erase_node(node)
        done.append(plan.site.name)
    return done


def drop_unread(graph: GraphModule) -> None:
    """Lets go of parameters that no node reads any more: the graph would keep the dense weights alive."""
    read = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in list(graph.named_parameters(remove_duplicate=False)):
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)


def rewrite(
    graph: GraphModule, plans: Mapping[str, LayerPlan], tokens: Mapping[str, int]
) -> tuple[GraphModule, list[str]]:
    """The rewritten graph, recompiled, and the sites that it computes sparsely.

    What stands between the sparse layers is rewritten too where the native module is there.
    """
    drop_no_ops(graph)
    sums_of_their_own(graph)
    done = fuse(graph, plans, tokens)
    if available():
        fuse_norms(graph)
        simplify_masks(graph)
        fuse_attention(graph)
    graph.graph.eliminate_dead_code()
    drop_unread(graph)
    graph.graph.lint()
    graph.recompile()
    return graph, done


def describe(graph: GraphModule, done: Sequence[str]) -> str:
    """One sentence on a rewritten graph: how many of its operations are ours."""
    targets = [node.target for node in graph.graph.nodes]
    norms = targets.count(torch.ops.rarefy.add_layer_norm.default)
    attentions = targets.count(torch.ops.rarefy.attention.default)
    return f"captured, {len(done)} layers sparse in it, {norms} norms of sums and {attentions} attentions native"
