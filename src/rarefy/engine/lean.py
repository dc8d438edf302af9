"""A captured graph as a plain function, for calls like one that has already passed the graph's own checks."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils._pytree import TreeSpec, tree_unflatten

_CHECKS = "_guards_fn"  # the submodule by which `torch.export` looks at the sizes of a call


def lean(graph: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """What computes the same as `graph` for calls whose arguments have the sizes and types of these.

    The exported module flattens its arguments and looks at every size again in each call, which takes longer than a
    small layer. None where the graph is no exported one, or takes its arguments in another structure.
    """
    spec, out = getattr(graph, "_in_spec", None), getattr(graph, "_out_spec", None)
    if not (isinstance(graph, GraphModule) and isinstance(spec, TreeSpec) and isinstance(out, TreeSpec)):
        return None
    order = _order(spec, args, tuple(kwargs))
    if order is None:
        return None
    flat = _flat(graph)
    straight, single = order == tuple(range(len(order))), out.is_leaf()

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves: tuple[Any, ...] = (*args, *kwargs.values())
        found = flat(*leaves) if straight else flat(*(leaves[i] for i in order))
        return found[0] if single else tree_unflatten(found, out)

    return run


def _order(spec: TreeSpec, args: tuple[Any, ...], names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Where among (*args, *kwargs.values()) each input of the graph stands; None if the structure is another."""
    positional, named = _children(spec)
    known = list(named.context)
    fits = positional.num_children == len(args) and sorted(known) == sorted(names)
    if not fits or not all(child.is_leaf() for part in (positional, named) for child in _children(part)):
        return None
    return (*range(len(args)), *(len(args) + names.index(name) for name in known))


def _children(spec: TreeSpec) -> list[TreeSpec]:
    """The parts of a structure; torch has named them by a method since some release behind 2.6."""
    return spec.children() if hasattr(spec, "children") else spec.children_specs


def _flat(graph: GraphModule) -> Callable[..., Any]:
    """Leaves in, a tuple of leaves out, without the looks at sizes; the submodules are shared."""
    kept = graph.meta.get("rarefy_flat")
    if kept is None:
        plain = Graph()
        plain.output(plain.graph_copy(graph.graph, {}))
        for node in [n for n in plain.nodes if n.op == "call_module" and n.target == _CHECKS]:
            plain.erase_node(node)
        plain.set_codegen(CodeGen())
        kept = graph.meta["rarefy_flat"] = torch.fx.GraphModule(graph, plain).forward
    flat: Callable[..., Any] = kept
    return flat
