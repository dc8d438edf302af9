"""The sparse face of an ordinary layer: the same module and the same parameter, which holds the kept values only.

A layer is packed and unpacked in place: the optimizer and everything that holds the module go on with the same objects.
Packed, `module.weight` is `(nnz,)`; state dicts show the dense weight with its zeros all the same, and so do deep
copies: an average of values whose places move would be of different weights.
"""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.core.shapes import Mask
from rarefy.ops import Layer, available, window_of
from rarefy.training.runtime.conv import conv_product
from rarefy.training.runtime.data import replace_data
from rarefy.training.runtime.function import Seen
from rarefy.training.runtime.linear import linear_product
from rarefy.training.runtime.topology import Topology
from rarefy.training.runtime.watch import Scale, Watch

Along = Callable[[Topology, tuple[int, ...]], None]


class Packing:
    """What a packed layer has beside its values: where they belong, the dense shape, and who watches its gradient.

    open: asks the trainer for the dense face, optimizer memory and all. A pickled layer has neither that nor the watch:
    it belongs to no trainer.
    """

    def __init__(self, topology: Topology, shape: tuple[int, ...]) -> None:
        self.topology, self.shape = topology, shape
        self.open: weakref.ref[Any] | None = None
        self.watch: Watch | None = None
        self._arrival: RemovableHandle | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"topology": self.topology, "shape": self.shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def watch_gradient(self, weight: Tensor, on: bool) -> None:
        """From now on the backward passes keep what the dense gradient needs; or let go of it."""
        if self._arrival is not None:
            self._arrival.remove()
        self.watch, self._arrival = None, None
        if on:
            self.watch = watch = Watch()
            if weight.requires_grad:
                self._arrival = weight.register_post_accumulate_grad_hook(lambda _: watch.arrived())


class _Packed:
    """Of both kinds of layer: state dicts and deep copies are those of the dense one."""

    packing: Packing
    weight: Tensor

    def _seen(self, layer: Layer) -> Seen | None:
        """Passes whose gradient was cleared again (a batch that was skipped) are forgotten with it."""
        watch, weight = self.packing.watch, self.weight
        if watch is None or not weight.requires_grad:
            return None

        def note(x: Tensor, grad: Tensor) -> None:
            watch.note(layer, x, grad, cleared=weight.grad is None or not bool(weight.grad.any()))

        return note

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        values = self.weight if keep_vars else self.weight.detach()
        destination[prefix + "weight"] = self.packing.topology.scatter(values).view(self.packing.shape)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        values = self.packing.topology.scatter(self.weight.detach()).view(self.packing.shape)
        memo[id(self.weight)] = nn.Parameter(values, requires_grad=self.weight.requires_grad)
        dense = _DENSE[type(self)]  # type: ignore[index]
        twin = memo[id(self)] = dense.__new__(dense)
        twin.__dict__.update(copy.deepcopy({k: v for k, v in self.__dict__.items() if k != "packing"}, memo))
        return twin

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Dense again first, here and for the trainer: what is loaded may have other zeros."""
        opened = None if self.packing.open is None else self.packing.open()
        if opened is None or not opened.release(self):
            unpack_module(self)  # type: ignore[arg-type]
        nn.Module._load_from_state_dict(self, *args, **kwargs)  # type: ignore[arg-type]


class PackedLinear(_Packed, nn.Linear):
    """An `nn.Linear` that multiplies its kept values only."""

    @torch.compiler.disable  # addresses of memory are nothing to trace
    def forward(self, x: Tensor) -> Tensor:
        return linear_product(x, self.weight, self.bias, self.packing.topology, self._seen)


class PackedConv2d(_Packed, nn.Conv2d):
    """An `nn.Conv2d` that multiplies its kept taps only."""

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        window, kernel = window_of(self), (self.packing.shape[2], self.packing.shape[3])
        assert window is not None
        packing = self.packing
        return conv_product(x, self.weight, self.bias, packing.topology, kernel, window, self._seen)


_PACKED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}
_DENSE = {packed: dense for dense, packed in _PACKED.items()}


def is_packed(module: nn.Module) -> bool:
    """Whether a layer has its sparse face now."""
    return type(module) in _DENSE


def why_not(module: nn.Module) -> str | None:
    """Why a layer has no sparse face; None where it has one."""
    if type(module) not in _PACKED and type(module) not in _DENSE:
        return f"a {type(module).__name__} has no kernels that skip zeros in training"
    if not available():
        return "the native module is missing"
    weight = module.weight
    if not isinstance(weight, nn.Parameter) or weight.dtype != torch.float32 or weight.device.type != "cpu":
        return "its weight is no float32 parameter on the CPU"
    if isinstance(module, nn.Conv2d) and window_of(module) is None:
        return f"padding {module.padding!r} of mode {module.padding_mode!r}"
    return None


def layer_of(module: nn.Module, x: tuple[int, ...]) -> tuple[Layer, int]:
    """The layer as the kernels see it for an input of this shape, and its images (rows of a linear layer)."""
    if isinstance(module, nn.Conv2d):
        window = window_of(module)
        assert window is not None
        images = x if len(x) == 4 else (1, *x)
        kernel = (int(module.kernel_size[0]), int(module.kernel_size[1]))
        return Layer(module.out_channels, (images[1], images[2], images[3]), kernel, window), images[0]
    assert isinstance(module, nn.Linear)
    rows = 1
    for size in x[:-1]:
        rows *= size
    return Layer(module.out_features, (module.in_features, 1, 1)), rows


@torch.no_grad()
def pack_module(module: nn.Module, mask: Mask, along: Along) -> Topology:
    """Gives a layer its sparse face; `mask` `(out, in)`.

    along: called with the topology and the dense shape while the weight is still dense, to carry what goes with it.
    """
    topology = Topology(mask)
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    shape, grad = tuple(weight.shape), weight.grad
    along(topology, shape)
    replace_data(weight, topology.gather(weight.data))
    weight.grad = None if grad is None else topology.gather(grad)
    module.packing = Packing(topology, shape)  # type: ignore[assignment]
    module.__class__ = _PACKED[type(module)]
    return topology


@torch.no_grad()
def unpack_module(module: nn.Module, along: Along | None = None) -> None:
    """Gives a layer its dense face again; a gradient of the kept values becomes one with zeros."""
    packing = module.packing
    assert isinstance(packing, Packing)
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    grad, topology = weight.grad, packing.topology
    if along is not None:
        along(topology, packing.shape)
    replace_data(weight, topology.scatter(weight.data).view(packing.shape))
    weight.grad = None if grad is None else topology.scatter(grad).view(packing.shape)
    module.__class__ = _DENSE[type(module)]
    del module.packing


def dense_gradient(module: nn.Module, rows: int = 64) -> Tensor | None:
    """The gradient of the dense weight, in its shape, of the backward passes that were watched; None if none was.

    Kept entries have what the optimizer would see; the others the same factor, where the gradient was scaled since
    (clipping by norm, a scaler of the loss).
    """
    packing = getattr(module, "packing", None)
    if packing is None or packing.watch is None or not packing.watch.seen:
        return None
    topology, weight = packing.topology, module.weight
    out = torch.empty(topology.shape)
    for at, block in packing.watch.blocks(rows):
        out[at.start : at.stop] = block
    if isinstance(weight, Tensor) and weight.grad is not None:
        scale = Scale()
        scale.see(topology.gather(out), weight.grad)
        out *= scale.factor
        out.view(-1)[topology.positions] = weight.grad
    return out.view(packing.shape)
