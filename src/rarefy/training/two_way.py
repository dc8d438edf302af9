"""Layers whose backward pass to the inputs uses another weight than the forward pass."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import grad

from rarefy.core.errors import ModelError, ShapeError
from rarefy.core.protocols import Pattern
from rarefy.patterns.nm import NM
from rarefy.training.run import Run


class _LinearProducts(torch.autograd.Function):
    """y = x W^T; dx = dy W_b; dW = dy^T x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, backward_weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, backward_weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, backward_weight = ctx.saved_tensors
        dx = dy @ backward_weight if ctx.needs_input_grad[0] else None
        dw = dy.reshape(-1, dy.shape[-1]).t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        return dx, dw, None


class _ConvProducts(torch.autograd.Function):
    """The same three products of a convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, backward_weight: Tensor, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, backward_weight)
        ctx.settings = settings
        return F.conv2d(x, weight, None, *settings)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, other = ctx.saved_tensors
        dx = dw = None
        if ctx.needs_input_grad[0]:
            dx = grad.conv2d_input(x.shape, other, dy, *ctx.settings)
        if ctx.needs_input_grad[1]:
            dw = grad.conv2d_weight(x, other.shape, dy, *ctx.settings)
        return dx, dw, None, None


class TwoWayLinear(nn.Linear):
    """A linear layer whose input gradient is dy W_b, W_b being the buffer `backward_weight`."""

    backward_weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = _LinearProducts.apply(x, self.weight, self.backward_weight)
        return y if self.bias is None else y + self.bias


class TwoWayConv2d(nn.Conv2d):
    """A convolution whose input gradient is that of the buffer `backward_weight`."""

    backward_weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x)
        settings = (self.stride, self.padding, self.dilation, self.groups)
        y: Tensor = _ConvProducts.apply(x, self.weight, self.backward_weight, settings)
        return y if self.bias is None else y + self.bias[:, None, None]


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {TwoWayLinear: nn.Linear, TwoWayConv2d: nn.Conv2d}


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The two-way class of a module; None for those whose products are not their own (recurrent, attention, ...)."""
    if type(module) in (nn.Linear, TwoWayLinear):
        return TwoWayLinear
    if (
        type(module) in (nn.Conv2d, TwoWayConv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    ):
        return TwoWayConv2d
    return None


@dataclass(frozen=True)
class MakeTwoWay:
    """Turns the linear and convolutional layers of the trained weights into two-way ones, in place.

    The modules stay the same objects with the same parameters and names; only their class changes, and a buffer that
    is not saved comes in. Other modules keep their ordinary backward pass: a warning names them, and a model that has
    nothing else is refused. where: the method, for messages.
    """

    where: str

    def __call__(self, run: Run) -> None:
        plain = [s.name for s in run.states if any(_kind(module) is None for module in s.weight.modules)]
        self._say(plain, len(run.states))
        for state in run.states:
            for module in state.weight.modules:
                kind = _kind(module)
                if kind is not None:
                    module.__class__ = kind
                    module.register_buffer("backward_weight", state.weight.parameter.detach().clone(), persistent=False)

    def _say(self, plain: list[str], total: int) -> None:
        if not plain:
            return
        names = ", ".join(plain[:5]) + (f" and {len(plain) - 5} more" if len(plain) > 5 else "")
        why = (
            f"{self.where}: the second mask acts in nn.Linear and in zero-padded nn.Conv2d (padding in numbers) only, "
            f"so {names} would go back through the forward weight, as with straight-through training"
        )
        if len(plain) == total:
            raise ModelError(f'{why}; no layer is left for the method: take method "ste" or "sr-ste"')
        warnings.warn(f"{why}; leave them dense with ignore={plain[:5]}, or accept it", stacklevel=2)


def one_way(model: nn.Module) -> list[str]:
    """Turns two-way layers back into ordinary ones, in place; gives their names."""
    found = [(name, module) for name, module in model.named_modules() if type(module) in _PLAIN]
    for _, module in found:
        module.__class__ = _PLAIN[type(module)]
        del module.backward_weight
    return [name for name, _ in found]


def nm_of(pattern: Pattern, where: str) -> NM:
    """The pattern as N:M, or an error that says who needs it along both axes."""
    if not isinstance(pattern, NM):
        raise ShapeError(f"{where}: {pattern} is not N:M, which is chosen along both axes; give for example '2:4'")
    return pattern


def set_backward(modules: tuple[nn.Module, ...], weight: Tensor) -> None:
    """Gives two-way layers the weight of their backward pass, in the parameter's shape."""
    for module in modules:
        if isinstance(module, TwoWayLinear | TwoWayConv2d):
            module.backward_weight.copy_(weight)
