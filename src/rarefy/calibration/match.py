"""Making a sparse block give again what its dense self gave, by gradient descent on its kept weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rarefy.calibration.blocks import Inputs
from rarefy.calibration.regional import first_tensor
from rarefy.core.errors import SparsityError
from rarefy.core.site import Site


@dataclass(frozen=True)
class BlockMatch:
    """Adam on min over batches of |f_sparse(x) - wanted|^2, over kept weights and biases of the block's sites.

    Weights that are zero stay zero. Steps cost one batch each; what is kept is the best state that any pass over
    the batches ended with, so a block is never worse than it was.
    passes: over the batches; rate: of Adam, as a share of the root mean square of each tensor.
    Source: Guo et al. 2024 (EBFT), arXiv:2402.12419, eq. 4.
    Differs: steps relative to the size of the weights, so that one rate fits every layer; biases move too; the
    number of passes is fixed where the paper stops at a tolerance.
    """

    passes: int = 10
    rate: float = 0.02

    def __post_init__(self) -> None:
        if self.passes < 1 or self.rate <= 0:
            raise SparsityError(f"{self}: needs passes >= 1 and a rate above 0")

    def __call__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> tuple[float, float]:
        """Fits the block in place. Returns its relative squared output error before and after."""
        fit = Fit(block, sites, inputs, wanted, real)
        return run_fit(fit, self.passes, self.rate)


def run_fit(fit: "Fit", passes: int, rate: float) -> tuple[float, float]:
    """Adam with steps that fall to nothing; the block's relative squared output error before and after."""
    if not fit.masters:
        return 0.0, 0.0
    sizes = {name: rate * float(m.detach().square().mean().sqrt()) for name, m in fit.masters.items()}
    with torch.enable_grad():
        optimizer = torch.optim.Adam([{"params": [m], "lr": sizes[name]} for name, m in fit.masters.items()])
        before = least = fit.total()
        best = fit.copy()
        for step in range(passes):
            for group, size in zip(optimizer.param_groups, sizes.values(), strict=True):
                group["lr"] = size * (1.0 - step / passes)
            for i in range(len(fit.inputs)):
                fit.set_gradients(i)
                optimizer.step()
            now = fit.total()
            if now < least:
                least, best = now, fit.copy()
    fit.write(best)
    return before, least


class Fit:
    """One block being fitted: float32 copies of what moves, which of their entries may, and the error of a batch."""

    def __init__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> None:
        self.block, self.inputs, self.wanted, self.real = block, inputs, wanted, real
        self.moving = {name: p for name, p in _moving(block, sites).items() if bool((p != 0).any())}
        self.masters = {name: p.detach().float().clone().requires_grad_(True) for name, p in self.moving.items()}
        self.keep = {name: (p != 0) | (p.dim() == 1) for name, p in self.moving.items()}  # all of a bias
        self.scale = sum(float(_rows(w, m).square().sum()) for w, m in zip(wanted, real, strict=True)) or 1.0

    def view(self, name: str, master: Tensor) -> Tensor:
        """What the block computes with in place of a master, and what is written in the end."""
        return master

    def error(self, index: int) -> Tensor:
        args, kwargs = self.inputs[index]
        weights = {name: self.view(name, m).to(self.moving[name].dtype) for name, m in self.masters.items()}
        got = first_tensor(functional_call(self.block, weights, tuple(args), kwargs))
        return (_rows(got, self.real[index]) - _rows(self.wanted[index], self.real[index])).square().sum() / self.scale

    def total(self) -> float:
        with torch.no_grad():
            return sum(float(self.error(i)) for i in range(len(self.inputs)))

    def set_gradients(self, index: int) -> None:
        """Gradients of one batch for the masters alone, none where an entry was pruned."""
        grads = torch.autograd.grad(self.error(index), list(self.masters.values()), allow_unused=True)
        for (name, master), grad in zip(self.masters.items(), grads, strict=True):
            master.grad = None if grad is None else grad * self.keep[name]

    def copy(self) -> dict[str, Tensor]:
        return {name: m.detach().clone() for name, m in self.masters.items()}

    def write(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.moving.items():
                parameter.copy_(self.view(name, values[name]))


def _moving(block: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Weights and biases of the sites by their names in the block, each tensor once."""
    wanted = {id(t) for site in sites for m in site.modules for t in (m.weight, getattr(m, "bias", None))}
    return {name: p for name, p in block.named_parameters() if id(p) in wanted}


def _rows(output: Tensor, real: Tensor | None) -> Tensor:
    """Outputs as float32 rows, padding left out where the mask fits."""
    return output[real].float() if real is not None and output.shape[:2] == real.shape else output.float()
