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
        self, block: nn.Module, sites: Sequence[Site], inputs: Inputs, wanted: list[Tensor], real: list[Tensor | None]
    ) -> tuple[float, float]:
        """Fits the block in place. Returns its relative squared output error before and after."""
        with torch.inference_mode(False), torch.enable_grad():
            return self._fit(block, sites, inputs, wanted, real)

    def _fit(
        self, block: nn.Module, sites: Sequence[Site], inputs: Inputs, wanted: list[Tensor], real: list[Tensor | None]
    ) -> tuple[float, float]:
        moving = _moving(block, sites)
        masters = {name: p.detach().float().clone().requires_grad_(True) for name, p in moving.items()}
        keep = {name: (p != 0 if p.dim() > 1 else torch.ones_like(p, dtype=torch.bool)) for name, p in moving.items()}
        sizes = {name: self.rate * float(m.detach().square().mean().sqrt()) for name, m in masters.items()}
        groups = [{"params": [m], "lr": sizes[name]} for name, m in masters.items() if sizes[name] > 0]
        if not groups:
            return 0.0, 0.0
        optimizer = torch.optim.Adam(groups)
        scale = sum(float(_rows(w, m).square().sum()) for w, m in zip(wanted, real, strict=True)) or 1.0

        def error(i: int) -> Tensor:
            args, kwargs = inputs[i]
            weights = {name: m.to(moving[name].dtype) for name, m in masters.items()}
            got = first_tensor(functional_call(block, weights, tuple(args), kwargs))
            return (_rows(got, real[i]) - _rows(wanted[i], real[i])).square().sum()

        def total() -> float:
            with torch.no_grad():
                return sum(float(error(i)) for i in range(len(inputs))) / scale

        before = least = total()
        best = {name: m.detach().clone() for name, m in masters.items()}
        for step in range(self.passes):
            for group, size in zip(optimizer.param_groups, (s for s in sizes.values() if s > 0), strict=True):
                group["lr"] = size * (1.0 - step / self.passes)
            for i in range(len(inputs)):
                optimizer.zero_grad()
                (error(i) / scale).backward()
                for name, master in masters.items():
                    if master.grad is not None:
                        master.grad *= keep[name]
                optimizer.step()
            now = total()
            if now < least:
                least, best = now, {name: m.detach().clone() for name, m in masters.items()}
        with torch.no_grad():
            for name, parameter in moving.items():
                parameter.copy_(best[name])
        return before, least


def _moving(block: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Weights and biases of the sites by their names in the block, each tensor once."""
    wanted = {id(t) for site in sites for m in site.modules for t in (m.weight, getattr(m, "bias", None))}
    return {name: p for name, p in block.named_parameters() if id(p) in wanted}


def _rows(output: Tensor, real: Tensor | None) -> Tensor:
    """Outputs as float32 rows, padding left out where the mask fits."""
    return output[real].float() if real is not None and output.shape[:2] == real.shape else output.float()
