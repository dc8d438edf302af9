"""Rewriting a captured graph: max pooling becomes native, with the convolution before it where it alone reads that."""

import torch
from torch.fx import GraphModule

from rarefy.engine.fuse_norm import value_of
from rarefy.engine.fused_conv import FusedConv2d, FusedConvPool, MaxPool2d
from rarefy.ops import pool_of
from rarefy.ops.depthwise import is_depthwise_kernel

_aten = torch.ops.aten


def fuse_pools(graph: GraphModule) -> int:
    """Replaces max pooling by the native one, together with a convolution that it alone reads; returns how many."""
    done = 0
    for number, node in enumerate(list(graph.graph.nodes)):
        value = value_of(node.args[0]) if node.target is _aten.max_pool2d.default else None
        if value is None or value.dim() != 4 or value.dtype != torch.float32 or node.kwargs:
            continue
        pool, source = pool_of(*node.args[1:]), node.args[0]
        conv = graph.get_submodule(source.target) if source.op == "call_module" else None
        name, together = f"rarefy_pool_{number}", False
        alone = isinstance(conv, FusedConv2d) and len(source.users) == 1 and len(source.args) == 1
        if isinstance(conv, FusedConv2d) and alone and not is_depthwise_kernel(conv.packed.kernel):
            graph.add_submodule(name, FusedConvPool(conv, pool))
            together = True
        else:
            graph.add_submodule(name, MaxPool2d(pool))
        with graph.graph.inserting_before(node):
            fused = graph.graph.call_module(name, source.args if together else (source,))
        fused.meta.update(node.meta)
        node.replace_all_uses_with(fused)
        graph.graph.erase_node(node)
        if together:
            graph.graph.erase_node(source)
        done += 1
    return done
