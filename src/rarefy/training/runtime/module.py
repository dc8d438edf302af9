"""What really sparse layers have in common: values of the kept entries, a topology, editing, checkpoints."""

from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError, ShapeError
from rarefy.ops import Layer
from rarefy.training.runtime.data import replace_data
from rarefy.training.runtime.topology import Move, Topology
from rarefy.training.runtime.watch import Watch

Dense = TypeVar("Dense", nn.Linear, nn.Conv2d)


class SparseModule(nn.Module):
    """A layer of which only the kept weights exist: `values` `(nnz,)`, their gradients, and where they are."""

    values: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, topology: Topology, bias: bool, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.topology = topology
        self.values = nn.Parameter(torch.empty(topology.nnz, dtype=dtype))
        self.register_parameter("bias", nn.Parameter(torch.empty(topology.shape[0], dtype=dtype)) if bias else None)
        self._watch: Watch | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in +- 1 / sqrt(fan-in of the row): as `nn.Linear` does, counting only what is kept."""
        counts = self.topology.row_counts
        bound = torch.repeat_interleave(counts.clamp(min=1).rsqrt(), counts)
        with torch.no_grad():
            self.values.copy_((2 * torch.rand(self.topology.nnz) - 1) * bound)
            if self.bias is not None:
                self.bias.copy_((2 * torch.rand(self.topology.shape[0]) - 1) * counts.clamp(min=1).rsqrt())

    def dense_weight(self) -> Tensor:
        """The weight in the dense layer's shape, exact zeros where nothing is kept; part of autograd's graph."""
        return self.topology.scatter(self.values).view(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The dense layer's."""
        return self.topology.shape

    @torch.no_grad()
    def _copy(self, source: nn.Linear | nn.Conv2d) -> None:
        self.values.data = self.topology.gather(source.weight.detach())
        self.values.requires_grad_(source.weight.requires_grad)
        if self.bias is not None and source.bias is not None:
            self.bias.data = source.bias.detach().clone()
            self.bias.requires_grad_(source.bias.requires_grad)
        self.train(source.training)

    @torch.no_grad()
    def _copy_back(self, made: Dense) -> Dense:
        made.weight.copy_(self.dense_weight())
        if self.bias is not None and made.bias is not None:
            made.bias.copy_(self.bias)
        return made.train(self.training)

    @torch.no_grad()
    def edit(self, dropped: Tensor, grown: Tensor, fresh: float | Tensor = 0.0) -> Move:
        """Takes entries away and adds new ones, in place: the parameter stays the same object, its gradient is let go.

        See `Topology.edit`. Gives the move, with which the caller carries the optimizer's state.
        """
        move = self.topology.edit(dropped, grown)
        self._resize(move.carry(self.values, fresh))
        return move

    def _resize(self, values: Tensor) -> None:
        replace_data(self.values, values)

    def watch(self, on: bool = True) -> None:
        """From now on the backward passes keep what the dense gradient needs; `watch(False)` lets go of it.

        Each backward pass keeps its x and the gradient of its result alive: watch only the steps that need it.
        """
        self._watch = Watch() if on else None

    def _seen(self, layer: Layer) -> Any:
        watch = self._watch
        return None if watch is None else lambda x, grad: watch.note(layer, x, grad)

    def dense_grad_blocks(self, rows_per_block: int = 64) -> Iterator[tuple[range, Tensor]]:
        """(rows, gradient `(rows, n)`) of the dense weight, of all backward passes since `watch()`.

        No more than one block exists at a time, so a largest-k can be streamed.
        """
        return (self._watch or Watch()).blocks(rows_per_block)

    def get_extra_state(self) -> Tensor:
        """The mask at eight entries a byte, for `state_dict()`."""
        return self.topology.bits

    def set_extra_state(self, state: Tensor) -> None:
        """Set before the values are loaded, see `_load_from_state_dict`."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        bits, values = state_dict.get(prefix + "_extra_state"), state_dict.get(prefix + "values")
        if bits is not None and values is not None:
            if bits.shape[0] != self.topology.shape[0]:
                raise ShapeError(
                    f"{prefix}values: the checkpoint has {bits.shape[0]} rows, the layer {self.topology.shape[0]}"
                )
            loaded = Topology.from_bits(bits, self.topology.shape[1])
            if loaded.nnz != values.numel():
                raise ModelError(
                    f"{prefix}values: {values.numel()} values for a mask of {loaded.nnz}; the checkpoint is damaged"
                )
            move = self.topology.move_to(loaded)
            self.topology.become(loaded)
            if loaded.nnz != self.values.numel():
                self._resize(move.carry(self.values.detach()))
        super()._load_from_state_dict(state_dict, prefix, *args)
