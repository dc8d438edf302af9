"""Random graphs as the structure of a net: vertices are neurons, edges point from lower to higher numbers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rarefy.core.errors import SparsityError
from rarefy.core.shapes import Mask

if TYPE_CHECKING:
    import networkx  # comes with torch; imported where it is used, since that takes a moment

Edge = tuple[int, int]


@dataclass(frozen=True)
class Structure:
    """A directed acyclic graph. edges: (from, to) with from < to, sorted.

    >>> Structure(4, ((0, 1), (0, 3), (1, 3))).layers
    (0, 1, 0, 2)
    """

    nodes: int
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        wrong = [edge for edge in self.edges if not 0 <= edge[0] < edge[1] < self.nodes]
        if self.nodes < 1 or wrong or len(set(self.edges)) != len(self.edges):
            raise SparsityError(
                f"Structure: {self.nodes} nodes, edges {wrong[:3]} do not point to a higher node, or repeat"
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layer of each vertex: the length of the longest path that ends there."""
        found = [0] * self.nodes
        for start, end in sorted(self.edges):
            found[end] = max(found[end], found[start] + 1)
        return tuple(found)

    @property
    def depth(self) -> int:
        """The number of layers."""
        return max(self.layers) + 1

    @property
    def sources(self) -> tuple[int, ...]:
        """Vertices that no edge enters: the input comes in there."""
        entered = {end for _, end in self.edges}
        return tuple(v for v in range(self.nodes) if v not in entered)

    @property
    def sinks(self) -> tuple[int, ...]:
        """Vertices that no edge leaves: the output is read there."""
        left = {start for start, _ in self.edges}
        return tuple(v for v in range(self.nodes) if v not in left)

    @property
    def mask(self) -> Mask:
        """(to, from): where the net has a weight between vertices."""
        found = torch.zeros(self.nodes, self.nodes, dtype=torch.bool)
        for start, end in self.edges:
            found[end, start] = True
        return found

    def graph(self) -> "networkx.DiGraph":
        """As a graph of networkx."""
        import networkx

        made = networkx.DiGraph()
        made.add_nodes_from(range(self.nodes))
        made.add_edges_from(self.edges)
        return made


def oriented(graph: "networkx.Graph") -> Structure:
    """An undirected graph on 0 .. n-1, each edge from its lower to its higher end."""
    edges = sorted({(min(a, b), max(a, b)) for a, b in graph.edges if a != b})
    return Structure(graph.number_of_nodes(), tuple(edges))


def small_world(nodes: int, neighbours: int, rewired: float, seed: int) -> Structure:
    """Watts-Strogatz: a ring in which each vertex knows its `neighbours` nearest, each edge rewired with a probability.

    Source: Watts and Strogatz 1998, doi:10.1038/30918.
    """
    import networkx

    return oriented(networkx.watts_strogatz_graph(nodes, neighbours, rewired, seed=seed))


def scale_free(nodes: int, edges: int, seed: int) -> Structure:
    """Barabasi-Albert: every new vertex brings `edges` edges, which prefer vertices that have many.

    Source: Barabasi and Albert 1999, doi:10.1126/science.286.5439.509.
    """
    import networkx

    return oriented(networkx.barabasi_albert_graph(nodes, edges, seed=seed))
