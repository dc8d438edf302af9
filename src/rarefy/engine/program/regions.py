"""Which nodes of a graph run natively, and in how many calls: stages of native and torch nodes that take turns."""

from collections.abc import Mapping

from torch.fx import Graph, Node

from rarefy.engine.program.facts import Fact
from rarefy.engine.program.lowering import lowering_of


def native_nodes(graph: Graph, facts: Mapping[Node, Fact]) -> set[Node]:
    """The nodes that a program computes. A view belongs to what fills its memory: it is native only between native
    nodes of its own stage, since a program gives whole tensors back."""
    native = {n for n in graph.nodes if (entry := lowering_of(n)) is not None and entry.fits(n, facts)}
    views = [n for n in graph.nodes if n in native and (entry := lowering_of(n)) is not None and entry.view]
    while True:
        _drop_bare(native, views)
        stage = stages(graph, native)
        # One at a time, the first first: what comes behind it then has other stages.
        apart = (n for n in views if n in native and any(stage[o] != stage[n] for o in _around(n)))
        if (node := next(apart, None)) is None:
            return native
        native.discard(node)


def _around(view: Node) -> tuple[Node, ...]:
    """What fills its memory, and what reads it."""
    assert isinstance(view.args[0], Node)
    return view.args[0], *view.users


def _drop_bare(native: set[Node], views: list[Node]) -> None:
    """Leaves out the views that are not between native nodes, and those that then are not either."""
    before = -1
    while before != len(native):
        before = len(native)
        native.difference_update([n for n in views if not all(other in native for other in _around(n))])


def stages(graph: Graph, native: set[Node]) -> dict[Node, int]:
    """Even: torch, odd: native; every node's is at least that of what it reads, so sorting by stage keeps order."""
    stage: dict[Node, int] = {}
    for node in graph.nodes:
        kind = 1 if node in native else 0
        sources = (stage[source] for source in node.all_input_nodes)
        stage[node] = max([kind, *(at + (at % 2 != kind) for at in sources)])
    return stage


def sort_by_stage(graph: Graph, stage: Mapping[Node, int]) -> None:
    """Reorders the graph in place: inputs first, each stage in one piece, the output last."""
    nodes = list(graph.nodes)
    output = nodes.pop()
    inputs = [n for n in nodes if n.op in ("placeholder", "get_attr")]
    rest = sorted((n for n in nodes if n.op not in ("placeholder", "get_attr")), key=lambda n: stage[n])
    for node in (*inputs, *rest, output):
        graph._root.prepend(node)  # the root closes the ring: before it is the end


def regions_of(graph: Graph, native: set[Node], stage: Mapping[Node, int]) -> list[list[Node]]:
    """The native nodes of each stage, in order; stages with too little to do are left out."""
    by_stage: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node in native:
            by_stage.setdefault(stage[node], []).append(node)
    return [by_stage[s] for s in sorted(by_stage) if _worth_a_call(by_stage[s])]


def _worth_a_call(nodes: list[Node]) -> bool:
    """At least one layer, norm or attention, or two lesser steps."""
    entries = [entry for node in nodes if (entry := lowering_of(node)) is not None and not entry.view]
    return len(entries) > 1 or any(not entry.light for entry in entries)
