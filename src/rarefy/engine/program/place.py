"""Puts programs into a graph: regions become modules that are called in their place."""

import operator
from collections.abc import Mapping

from torch.fx import GraphModule, Node

from rarefy.engine.program import lower_entries, lower_layers, lower_views  # noqa: F401  # each registers its lowerings
from rarefy.engine.program.apart import batch_of
from rarefy.engine.program.builder import Builder, names_in
from rarefy.engine.program.demands import demands_of
from rarefy.engine.program.facts import Fact, facts_of
from rarefy.engine.program.lower_entries import absorb_embeddings, absorbed_by
from rarefy.engine.program.lowering import lowering_of
from rarefy.engine.program.region import Region, Signature
from rarefy.engine.program.regions import native_nodes, regions_of, sort_by_stage, stages
from rarefy.engine.program.sizes import hint
from rarefy.engine.program.values import shape_of, traced
from rarefy.ops import native


def with_programs(graph: GraphModule) -> int:
    """Replaces the regions of a graph that native code computes by calls; returns how many there are now.

    Nodes are reordered, so that a region lies in one piece.
    """
    module = native.module()
    if module is None:
        return 0
    facts = facts_of(graph)
    chosen = native_nodes(graph.graph, facts)
    stage = stages(graph.graph, chosen)
    sort_by_stage(graph.graph, stage)
    regions = regions_of(graph.graph, chosen, stage)
    done = 0
    for nodes in regions:
        build = _lower(graph, nodes, facts)
        region = _region(build, module)
        if region is not None:
            _replace(graph, f"program_{done}", region, nodes, build)
            done += 1
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    return done


def _lower(graph: GraphModule, nodes: list[Node], facts: Mapping[Node, Fact]) -> Builder:
    region = set(nodes)
    outputs = [n for n in nodes if any(user not in region for user in n.users)]
    build = Builder(graph, facts, region, outputs)
    absorbed: set[Node] = set()
    for node in nodes:
        absorbed |= absorbed_by(node, region, facts)
    for node in nodes:
        if node in absorbed or node in build.done or absorb_embeddings(node, build):
            continue
        entry = lowering_of(node)
        assert entry is not None
        entry.emit(node, build)
    return build


def _region(build: Builder, module: object) -> Region | None:
    """The program of what was collected, behind its signature; None where a size cannot be read off an input."""
    inputs, outputs = [], []
    for node in build.inputs:
        shape, tensor = shape_of(node), traced(node)
        assert shape is not None and tensor is not None
        inputs.append((node.name, tensor.dtype, shape[0]))
    for node in build.outputs:
        shape, tensor = shape_of(node), traced(node)
        assert shape is not None and tensor is not None
        outputs.append((tensor.dtype, *shape))
    names = names_in([arguments for _, arguments in build.steps]) | names_in(build.same)
    names |= names_in([sizes for *_, sizes in inputs]) | names_in([pair[1:] for pair in outputs])
    symbols = tuple(sorted(names))
    if not names <= {size.symbols[0] for *_, sizes in inputs for size in sizes if size.is_symbol}:
        return None
    program = build.native(module, symbols, _hints(build))
    seen = [one[2] for one in inputs], [one[1:] for one in outputs]
    signature = Signature(
        symbols, tuple(inputs), tuple(outputs), tuple(build.same), batch_of(*seen, build.same, build.steps)
    )
    kinds = tuple(method for method, _ in build.steps)
    return Region(program, signature, kinds, build.kept, demands_of(build.steps, build.kept))


def _hints(build: Builder) -> dict[str, int]:
    """The symbols at the traced sizes."""
    found: dict[str, int] = {}
    for node in build.inputs:
        tensor = traced(node)
        assert tensor is not None
        found |= {str(size): hint(size) for size in tensor.shape if not isinstance(size, int)}
    return found


def _replace(graph: GraphModule, name: str, region: Region, nodes: list[Node], build: Builder) -> None:
    graph.add_submodule(name, region)
    with graph.graph.inserting_after(nodes[-1]):
        call = graph.graph.call_module(name, tuple(build.inputs))
    if len(build.outputs) == 1:
        build.outputs[0].replace_all_uses_with(call, delete_user_cb=lambda user: user not in set(nodes))
        call.meta.update(build.outputs[0].meta)
    else:
        at = call
        for number, output in enumerate(build.outputs):
            with graph.graph.inserting_after(at):
                at = graph.graph.call_function(operator.getitem, (call, number))
            at.meta.update(output.meta)
            output.replace_all_uses_with(at, delete_user_cb=lambda user: user not in set(nodes))
    for node in reversed(nodes):
        graph.graph.erase_node(node)


def outside(graph: GraphModule) -> str:
    """One sentence on a graph with programs: how many operations torch still computes, and which."""
    modules = [graph.get_submodule(str(n.target)) for n in graph.graph.nodes if n.op == "call_module"]
    regions = [m for m in modules if isinstance(m, Region)]
    if not regions:
        return "no native program"
    rest = [n for n in graph.graph.nodes if n.op == "call_function" and n.target is not operator.getitem]
    names = sorted({getattr(n.target, "__name__", str(n.target)).split(".")[0] for n in rest})
    steps = sum(len(region.kinds) for region in regions)
    said = f" ({', '.join(names)})" if names else ""
    return f"{len(regions)} native program(s) of {steps} steps, {len(rest)} operations in torch{said}"
