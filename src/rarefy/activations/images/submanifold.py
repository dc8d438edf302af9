"""Convnets on visible patches only: outputs exist at the visible places of each scale, so that the mask never erodes.

The layers share the parameters and buffers of the dense ones, and their names: the state dict stays the same.
"""

from typing import Any

from torch import Tensor, nn

from rarefy.activations.images.windows import Geometry, convolve_at, lay_out
from rarefy.core.errors import ModelError, ShapeError
from rarefy.core.shapes import Bool


class Visible:
    """The mask of patches (images, rows, columns), True = visible, that all layers of one network look at."""

    def __init__(self) -> None:
        self.patches: Tensor | None = None

    def at(self, height: int, width: int) -> Bool[Tensor, "images height width"]:
        """The mask at a feature map's resolution. Raises where none is set or the map is no multiple of the patches."""
        if self.patches is None:
            raise ModelError("Visible: no patches are set; set `visible.patches` to a mask (images, rows, columns)")
        rows, columns = self.patches.shape[1:]
        if height % rows or width % columns:
            raise ShapeError(
                f"Visible: a feature map of ({height}, {width}) is no multiple of ({rows}, {columns}) patches; give "
                "images whose sides are multiples of the network's total stride, and convolutions that pad"
            )
        return self.patches.repeat_interleave(height // rows, 1).repeat_interleave(width // columns, 2)


class _Shared(nn.Module):
    """A stand-in for a dense layer, with its very parameters and buffers."""

    dense: Any

    def __init__(self, dense: nn.Module, visible: Visible) -> None:
        super().__init__()
        self._parameters, self._buffers = dense._parameters, dense._buffers
        object.__setattr__(self, "dense", dense)  # not a child: its names must not come twice
        self.visible = visible
        self.training = dense.training

    def train(self, mode: bool = True) -> "_Shared":
        self.dense.train(mode)
        return super().train(mode)


class SubmanifoldConv2d(_Shared):
    """A convolution whose outputs exist at visible places only.

    gather_below: the share of visible places under which their windows are gathered; above it, the dense convolution
    times the mask is the faster way to the same numbers.
    """

    def __init__(self, dense: nn.Conv2d, visible: Visible, gather_below: float) -> None:
        super().__init__(lay_out(dense), visible)
        self.geometry, self.gather_below = Geometry.of(dense), gather_below

    def forward(self, x: Tensor) -> Tensor:
        active = self.visible.at(*self.geometry.output(x.shape[2], x.shape[3]))
        assert self.visible.patches is not None
        if self.visible.patches.float().mean() >= self.gather_below:
            return self.dense(x) * active[:, None]
        weight, bias = self._parameters["weight"], self._parameters.get("bias")
        assert weight is not None
        return convolve_at(x, weight, bias, self.geometry, active)


class VisibleNorm(_Shared):
    """Batch norm with the statistics of visible places; zeros elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        active = self.visible.at(x.shape[2], x.shape[3])
        rows = x.permute(0, 2, 3, 1)
        found = self.dense(rows[active][:, :, None, None])[:, :, 0, 0]
        return found.new_zeros(rows.shape).index_put((active,), found).permute(0, 3, 1, 2)


class VisibleOnly(_Shared):
    """Any layer over places (pooling), with zeros where nothing is visible."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.dense(x)
        return out * self.visible.at(out.shape[2], out.shape[3])[:, None]


_POOLS = (nn.MaxPool2d, nn.AvgPool2d)
_REFUSED = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d, nn.ConvTranspose2d, nn.SyncBatchNorm)


def make_sparse(model: nn.Module, visible: Visible, *, gather_below: float = 0.5) -> int:
    """Puts layers that look at visible places only into a convnet, in place; gives how many.

    Convolutions, 2-d batch norm, max and average pooling. Raises ModelError for a norm over other axes, which would
    mix visible and hidden places.
    """
    for name, module in model.named_modules():
        if isinstance(module, _REFUSED):
            raise ModelError(f"{name}: {type(module).__name__} has no form for visible places; use BatchNorm2d")
    return _swap(model, lambda layer: _sparse(layer, visible, gather_below))


def make_dense(model: nn.Module) -> int:
    """Puts the dense layers back, with what they learnt; gives how many."""
    return _swap(model, lambda layer: layer.dense if isinstance(layer, _Shared) else None)


def _sparse(layer: nn.Module, visible: Visible, gather_below: float) -> nn.Module | None:
    if isinstance(layer, nn.Conv2d):
        return SubmanifoldConv2d(layer, visible, gather_below)
    if isinstance(layer, nn.BatchNorm2d):
        return VisibleNorm(layer, visible)
    return VisibleOnly(layer, visible) if isinstance(layer, _POOLS) else None


def _swap(model: nn.Module, other: Any) -> int:
    count = 0
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            found = other(child)
            if found is not None:
                parent._modules[name] = found
                count += 1
    return count
