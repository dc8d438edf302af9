"""Activation functions with a scale of their own, and a search for the best of each layer."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import ModelError, unknown_name

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky-relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "tanh": torch.tanh,
    "tanh-soft": lambda x: torch.tanh(x.clamp_max(20.0).exp()) * x,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "symmetric-sqrt": lambda x: x.sign() * ((x.abs() + 1.0).sqrt() - 1.0),
    "asinh": torch.asinh,
    "atan": torch.atan,
    "erf": torch.erf,
    "sin": torch.sin,
    "cos": torch.cos,
    "square": lambda x: x * x,
    "abs": torch.abs,
    "identity": lambda x: x,
    "bent-identity": lambda x: ((x * x + 1.0).sqrt() - 1.0) / 2.0 + x,
    "gaussian": lambda x: (-x * x).exp(),
    "sinlu": lambda x: (x + torch.sin(x)) * torch.sigmoid(x),
    "relu6": F.relu6,
}
_PLAIN: dict[type[nn.Module], str] = {
    nn.ReLU: "relu", nn.GELU: "gelu", nn.SiLU: "silu", nn.ELU: "elu", nn.SELU: "selu", nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid", nn.Mish: "mish", nn.Softplus: "softplus", nn.LeakyReLU: "leaky-relu",
}  # fmt: skip


class Scaled(nn.Module):
    """alpha * f(beta * x); alpha and beta begin at 1 and are trained once `learn` is called.

    Source: Loni et al. 2023, arXiv:2305.10964, eq. 3.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in UNARY:
            raise unknown_name("activation", name, UNARY)
        self.name = name
        self.alpha, self.beta = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.requires_grad_(False)

    def learn(self) -> None:
        """Lets alpha and beta be trained."""
        self.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        if not self.alpha.requires_grad:
            return UNARY[self.name](x)
        return self.alpha * UNARY[self.name](self.beta * x)

    def extra_repr(self) -> str:
        return self.name


def replace_activations(model: nn.Module) -> list[str]:
    """Puts a `Scaled` of the same function in the place of every activation module, in place; gives their names."""
    found = [(n, m) for n, m in model.named_modules() if type(m) in _PLAIN or isinstance(m, Scaled)]
    if not found:
        raise ModelError(f"{type(model).__name__}: no activation is a module of its own; make it one (nn.ReLU(), ...)")
    for name, module in found:
        if not isinstance(module, Scaled):
            model.set_submodule(name, Scaled(_PLAIN[type(module)]))
    return [name for name, _ in found]


@dataclass(frozen=True)
class Found:
    """The best setting that was seen, its loss, and the losses of all that were tried in order."""

    setting: tuple[str, ...]
    loss: float
    tried: tuple[float, ...]


def late_acceptance(
    begin: Sequence[str],
    loss_of: Callable[[tuple[str, ...]], float],
    *,
    choices: Sequence[str],
    rounds: int,
    length: int = 3,
    seed: int = 0,
) -> Found:
    """Hill climbing that compares with the past: one change a round, taken if no worse than `length` rounds ago or now.

    Source: Burke and Bykov 2017, "The late acceptance hill-climbing heuristic", algorithm 1.
    """
    rng = random.Random(seed)
    now = best = tuple(begin)
    loss = least = loss_of(now)
    history, tried = [loss] * length, [loss]
    for step in range(rounds):
        at = rng.randrange(len(now))
        new = (*now[:at], rng.choice([c for c in choices if c != now[at]]), *now[at + 1 :])
        value = loss_of(new)
        tried.append(value)
        if value <= loss or value <= history[step % length]:
            now, loss = new, value
        if loss < least:
            best, least = now, loss
        history[step % length] = loss
    return Found(best, least, tuple(tried))
