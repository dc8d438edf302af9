"""Rewriting a captured graph: convolutions that follow each other become one module, images side by side or across."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from rarefy.engine.conv_across import Across, AcrossPlanner
from rarefy.engine.conv_calls import Step
from rarefy.engine.conv_region import ConvRegion
from rarefy.engine.fuse_norm import value_of
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8, FusedConvPool, MaxPool2d
from rarefy.ops import PackedConv, available
from rarefy.ops.conv8 import Scale
from rarefy.ops.conv_across import lanes

_FUSED = (FusedConv2d, FusedConv8, FusedConvPool, MaxPool2d)
_TOGETHER = (1, 4)  # images that are tried to go through a run of convolutions at a time
_APART = (1, 2)  # images that are tried to go through a run at a time on each thread
_LABEL = re.compile(r"graph(?:, (?:(\d+) images at a time( on each thread)?|(images across lanes)))?")
Repack = Callable[[Across, tuple[int, int]], Across]  # and the height and width of its input


@dataclass(frozen=True)
class Way:
    """How images go through the runs of a graph: so many together (0: all), each thread its own, or across lanes."""

    together: int = 0
    apart: bool = False
    across: bool = False

    @property
    def label(self) -> str:
        if self.across:
            return "graph, images across lanes"
        where = " on each thread" if self.apart else ""
        return f"graph, {self.together} images at a time{where}" if self.together else "graph"


def way_of(label: str) -> Way | None:
    """The way that has this label, None for the label of something else."""
    found = _LABEL.fullmatch(label)
    return None if found is None else Way(int(found[1] or 0), found[2] is not None, found[3] is not None)


def _runs(graph: GraphModule) -> list[list[Node]]:
    """Fused convolutions with nothing but constants between them, in order."""
    runs: list[list[Node]] = [[]]
    for node in graph.graph.nodes:
        if node.op == "call_module" and isinstance(graph.get_submodule(str(node.target)), _FUSED):
            runs[-1].append(node)
        elif node.op not in ("get_attr", "placeholder") and runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _image(node: Node) -> tuple[int, int] | None:
    """Height and width of a node's value where the tracer fixed them."""
    value = value_of(node)
    if value is None or value.dim() != 4 or not all(isinstance(n, int) for n in value.shape[2:]):
        return None
    return int(value.shape[2]), int(value.shape[3])


def _scales(graph: GraphModule, run: list[Node], number: dict[Node, int]) -> dict[int, Scale]:
    """Of the values of a run as words, by number: whoever makes a value says it first, then whoever reads it."""
    scales: dict[int, Scale] = {}
    for node in run:
        conv = graph.get_submodule(str(node.target))
        if isinstance(conv, FusedConv8):
            places = zip((node, *node.args), (conv.to_scale, conv.x_scale, conv.residual_scale), strict=False)
            for value, scale in places:
                if scale is not None:
                    scales.setdefault(number[value], scale)  # type: ignore[index]
    return scales


def _replace_run(
    graph: GraphModule, run: list[Node], name: str, repack: Repack | None, together: int, apart: bool
) -> None:
    sources = [node for node in run for node in node.all_input_nodes]
    inputs = [node for node in dict.fromkeys(sources) if node not in run]
    number = {node: i for i, node in enumerate([*inputs, *run])}
    steps = [
        Step(number[n.all_input_nodes[0]], number[n.args[1]] if len(n.args) > 1 else -1, number[n])  # type: ignore[index]
        for n in run
    ]
    outputs = [node for node in run if any(user not in run for user in node.users)]
    convs = []
    for node in run:
        conv, image = graph.get_submodule(str(node.target)), _image(node.all_input_nodes[0])
        assert isinstance(conv, _FUSED)
        if repack is not None and isinstance(conv, FusedConv2d | FusedConvPool):
            conv = repack(conv, image or (1, 1))
        convs.append(conv)
    scales = _scales(graph, run, number)
    region = ConvRegion(convs, steps, [number[node] for node in outputs], repack is not None, scales, together, apart)
    region.names = tuple(str(node.target) for node in run)
    graph.add_submodule(name, region)
    with graph.graph.inserting_after(run[-1]):
        call = graph.graph.call_module(name, tuple(inputs))
    place = call
    for i, node in enumerate(outputs):
        with graph.graph.inserting_after(place):
            place = graph.graph.call_function(_take, (call, i))
        place.meta.update(node.meta)
        node.replace_all_uses_with(place, delete_user_cb=lambda user: user not in run)
    for node in reversed(run):
        graph.graph.erase_node(node)


def _take(values: tuple[torch.Tensor, ...], i: int) -> torch.Tensor:
    return values[i]


def with_regions(
    graph: GraphModule, repack: Repack | None = None, together: int = 0, *, apart: bool = False
) -> GraphModule | None:
    """A graph of the same parameters in which runs of two or more fused convolutions are one module; None: none is.

    repack: gives each convolution packed for images across the lanes, in which layout the runs then compute;
    together: images that go through a run before the next ones do (0: all); apart: on each thread.
    """
    runs = [run for run in _runs(graph) if len(run) > 1] if available() else []
    if not runs:
        return None
    twin = GraphModule(graph, copy.deepcopy(graph.graph))
    for i, run in enumerate(r for r in _runs(twin) if len(r) > 1):
        _replace_run(twin, run, f"rarefy_convs_{i}", repack, together, apart)
    twin.graph.lint()
    twin.recompile()
    return twin


def conv_variants(graph: GraphModule, batch: int, *, measure: bool = True) -> dict[str, GraphModule]:
    """The ways to run a rewritten graph that are worth timing for `batch` images (0: it sees none), by name."""
    variants = {Way().label: with_regions(graph) or graph}
    threads = torch.get_num_threads()
    ways = [Way(n) for n in _TOGETHER if batch >= 2 * max(_TOGETHER)]
    ways += [Way(n, apart=True) for n in _APART if threads > 1 and batch >= 2 * n * threads]
    if available() and 2 * batch >= lanes() and not any(isinstance(m, FusedConv8) for m in graph.modules()):
        ways.append(Way(across=True))
    for way in ways if measure else ():
        made = in_way(graph, way, AcrossPlanner(batch).repack)
        if made is not None:
            variants[way.label] = made
    return variants


def in_way(graph: GraphModule, way: Way, repack: Repack) -> GraphModule | None:
    """The graph with its runs computed so, as `with_regions`; repack: where images lie across lanes."""
    return with_regions(graph, repack if way.across else None, way.together, apart=way.apart)


def across_in(run: object) -> dict[str, str]:
    """The kernels of the steps that a graph computes with images across lanes, by their names in the graph that it was
    made of; "dense" for those of images side by side."""
    modules = list(run.modules()) if isinstance(run, GraphModule) else []
    across = [region for region in modules if isinstance(region, ConvRegion) and region.across]
    steps = [step for region in across for step in zip(region.names, region.convs, strict=True)]
    found = [(name, _packed_in(step)) for name, step in steps]
    return {name: packed.kernel if packed.across else "dense" for name, packed in found if packed is not None}


def _packed_in(step: object) -> PackedConv | None:
    conv = step.conv if isinstance(step, FusedConvPool) else step
    return conv.packed if isinstance(conv, FusedConv2d) else None
