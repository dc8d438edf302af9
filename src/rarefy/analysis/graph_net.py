"""Feed-forward and recurrent nets whose neurons and weights are the vertices and edges of a graph."""

import math

import torch
from torch import Tensor, nn

from rarefy.analysis.random_graphs import Structure
from rarefy.core.shapes import Float


class GraphNet(nn.Module):
    """One neuron for each vertex, one weight for each edge; edges may skip layers.

    Sources read the input, sinks write the output; layer by layer `h_v = tanh(sum_u w_uv h_u + b_v)`. recurrent: inputs
    are (samples, time, width), the neurons of a layer also see that layer at the step before, and the output is that of
    every step.
    Source: Stier et al. 2021, arXiv:2107.12917, section 4 (layers by the longest path from the sources).
    """

    mask: Tensor
    own: Tensor

    def __init__(
        self, structure: Structure, inputs: int, outputs: int, *, recurrent: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.structure, self.recurrent = structure, recurrent
        generator = torch.Generator().manual_seed(seed)
        layers = torch.tensor(structure.layers)
        self.register_buffer("mask", structure.mask)
        self.register_buffer("own", layers[:, None] == layers[None])
        self._rows = [(layers == depth).nonzero().flatten() for depth in range(structure.depth)]
        self._sources, self._sinks = torch.tensor(structure.sources), torch.tensor(structure.sinks)
        self.enter = nn.Parameter(_drawn((len(structure.sources), inputs), inputs, generator))
        fan_in = self.mask.sum(1, keepdim=True).clamp_min(1)
        self.weight = nn.Parameter(_drawn((structure.nodes, structure.nodes), 1, generator) / fan_in.sqrt() * self.mask)
        self.bias = nn.Parameter(torch.zeros(structure.nodes))
        self.again = nn.Parameter(_drawn((structure.nodes, structure.nodes), structure.nodes, generator) * self.own)
        self.again.requires_grad_(recurrent)
        self.leave = nn.Linear(len(structure.sinks), outputs)
        with torch.no_grad():
            self.leave.weight.copy_(_drawn((outputs, len(structure.sinks)), len(structure.sinks), generator))
            self.leave.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        if not self.recurrent:
            return self._out(self._step(x, None))
        state, found = x.new_zeros(x.shape[0], self.structure.nodes), []
        for step in range(x.shape[1]):
            state = self._step(x[:, step], state)
            found.append(self._out(state))
        return torch.stack(found, 1)

    def edges(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of every weight between neurons, as the forward pass uses them."""
        used = (self.weight.detach() * self.mask) != 0
        return tuple(sorted((int(start), int(end)) for end, start in used.nonzero()))

    def _out(self, state: Tensor) -> Tensor:
        out: Tensor = self.leave(state[:, self._sinks])
        return out

    def _step(self, x: Float[Tensor, "samples inputs"], before: Tensor | None) -> Tensor:
        """All neurons' values, (samples, nodes)."""
        weight = self.weight * self.mask
        drive = x.new_zeros(x.shape[0], self.structure.nodes).index_copy(1, self._sources, x @ self.enter.t())
        drive = drive + self.bias
        if before is not None:
            drive = drive + before @ (self.again * self.own).t()
        state = torch.zeros_like(drive)
        for rows in self._rows:
            state = state.index_copy(1, rows, torch.tanh(drive[:, rows] + state @ weight[rows].t()))
        return state


def _drawn(shape: tuple[int, int], fan_in: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) / math.sqrt(fan_in)
