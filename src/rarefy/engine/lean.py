"""A captured graph as a plain function, for calls like one that has already passed the graph's own checks."""

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils._pytree import TreeSpec, tree_unflatten

from rarefy.engine.program.region import Region

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
    plain = _flat(graph)
    alone, single = _alone(plain), out.is_leaf()
    if alone is not None and single:
        region, places = alone[0], tuple(order[i] for i in alone[1])
        leaves: tuple[Any, ...] = (*args, *kwargs.values())
        return _of_region(region.bound(*(leaves[i] for i in places)), places, len(args) if not kwargs else -1)
    flat, straight = plain.forward, order == tuple(range(len(order)))

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves = (*args, *kwargs.values())
        found = flat(*leaves) if straight else flat(*(leaves[i] for i in order))
        return found[0] if single else tree_unflatten(found, out)

    return run


def _alone(graph: GraphModule) -> tuple[Region, tuple[int, ...]] | None:
    """The region whose one output is the graph's, and which of the inputs it takes; None where there is more to do."""
    taken = [node for node in graph.graph.nodes if node.op == "placeholder"]
    rest = [node for node in graph.graph.nodes if node.op != "placeholder"]
    if [node.op for node in rest] != ["call_module", "output"] or rest[1].args != ((rest[0],),):
        return None
    region = graph.get_submodule(rest[0].target)
    if not isinstance(region, Region) or rest[0].kwargs or any(one not in taken for one in rest[0].args):
        return None
    return region, tuple(taken.index(one) for one in rest[0].args)


def _of_region(call: Callable[..., Any], places: tuple[int, ...], positional: int) -> Callable[..., Any]:
    """The call, given all leaves; itself where its arguments are all there are, none of them named."""
    if places == tuple(range(positional)):
        return call

    def run(*args: Any, **kwargs: Any) -> Any:
        leaves: tuple[Any, ...] = (*args, *kwargs.values())
        return call(*[leaves[i] for i in places])

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


def _flat(graph: GraphModule) -> GraphModule:
    """Leaves in, a tuple of leaves out, without the looks at sizes; the submodules are shared."""
    kept = graph.meta.get("rarefy_flat")
    if kept is None:
        plain = Graph()
        plain.output(plain.graph_copy(graph.graph, {}))
        for node in [n for n in plain.nodes if n.op == "call_module" and n.target == _CHECKS]:
            plain.erase_node(node)
        plain.set_codegen(CodeGen())
        kept = graph.meta["rarefy_flat"] = GraphModule(graph, plain)
    flat: GraphModule = kept
    return flat
