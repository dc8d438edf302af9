"""The second stage of GQSA: integers and mask fixed, the scales of the whole model tuned together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration import runner
from rarefy.calibration.batches import evaluation, inference
from rarefy.calibration.gradients import loss_of
from rarefy.calibration.regional import first_tensor
from rarefy.calibration.swapped import swapped_weights
from rarefy.core.errors import SparsityError
from rarefy.core.grid import Grid, attach_grid, codes_of
from rarefy.core.quantized import QuantizedWeight
from rarefy.core.site import Site

Loss = Callable[[nn.Module, Any], Tensor]
_FINER = 1 << 13  # mantissa bits of float32 beyond the 11 significant ones that two bytes hold


@dataclass(frozen=True)
class ScaleTuning:
    """Adam over the logarithms of all scales; what is kept is the best of the start and the end of each pass.

    The loss is the user's; without one, the relative squared distance of the model's outputs from the dense model's.
    passes: over the batches; rate: of Adam, so about the share by which a scale moves in one step.
    Source: Zeng et al. 2024 (GQSA), arXiv:2412.17560, section 3 (E2E-OQP). Differs: no zero points, which a symmetric
    grid does not have; scales are rounded to 11 significant bits, so that a file holds them in two bytes.
    """

    passes: int = 2
    rate: float = 2e-3

    def __post_init__(self) -> None:
        if self.passes < 1 or self.rate <= 0:
            raise SparsityError(f"{self}: needs passes >= 1 and a rate above 0")

    def begin(
        self, model: nn.Module, sites: Sequence[Site], batches: Sequence[Any], loss: Loss | None
    ) -> Callable[[], dict[str, float]]:
        """Looks at the dense model; what it gives tunes the pruned one in place and says the loss before and after."""
        wanted = [] if loss is not None else _outputs(model, batches)
        return lambda: self._run(_Tuned(model, sites, batches, loss, wanted))

    def _run(self, tuned: "_Tuned") -> dict[str, float]:
        if not tuned.codes:
            return {}
        optimizer = torch.optim.Adam(tuned.logs.values(), lr=self.rate)
        before = least = tuned.total()
        best = tuned.scales()
        for step in range(self.passes):
            optimizer.param_groups[0]["lr"] = self.rate * (1.0 - step / self.passes)
            for index in range(len(tuned.batches)):
                tuned.set_gradients(index)
                optimizer.step()
            now = tuned.total()
            if now < least:
                least, best = now, tuned.scales()
        tuned.write(best)
        return {"loss_before_tuning": before, "loss_after_tuning": least}


class _Tuned:
    """The layers with grids, the logarithms of their scales, and the loss with them."""

    def __init__(
        self, model: nn.Module, sites: Sequence[Site], batches: Sequence[Any], loss: Loss | None, wanted: list[Tensor]
    ) -> None:
        held = {site.name: codes_of(site.module) for site in sites}
        self.codes = {name: codes for name, codes in held.items() if codes is not None}
        self.sites = [site for site in sites if site.name in self.codes]
        self.model, self.batches, self.loss, self.wanted = model, batches, loss, wanted
        self.logs = {name: codes.scale.log().requires_grad_(True) for name, codes in self.codes.items()}
        self.start = {name: codes.scale for name, codes in self.codes.items()}

    def scales(self) -> dict[str, Tensor]:
        """As they would be written."""
        return {name: _two_bytes(log.detach().exp()) for name, log in self.logs.items()}

    def total(self) -> float:
        scales = self.scales()
        with inference(self.model), swapped_weights(self.sites) as swap:
            for site in self.sites:
                swap(site, self._weight(site.name, scales[site.name]))
            return sum(float(self._loss(i)) for i in range(len(self.batches))) / len(self.batches)

    def set_gradients(self, index: int) -> None:
        with evaluation(self.model), torch.enable_grad(), swapped_weights(self.sites) as swap:
            for site in self.sites:
                swap(site, self._weight(site.name, self.logs[site.name].exp()))
            found = torch.autograd.grad(self._loss(index), list(self.logs.values()), allow_unused=True)
        for log, grad in zip(self.logs.values(), found, strict=True):
            log.grad = grad

    def _weight(self, name: str, scale: Tensor) -> Tensor:
        values = self.codes[name].values.float()
        return (values.view(*scale.shape, -1) * scale[:, :, None]).view(values.shape)

    def _loss(self, index: int) -> Tensor:
        if self.loss is not None:
            return loss_of(self.model, self.batches[index], index, self.loss)
        output = first_tensor(runner(None)(self.model, self.batches[index], index)).float()
        wanted = self.wanted[index]
        return (output - wanted).square().sum() / wanted.square().sum().clamp_min(1e-30)

    def write(self, scales: dict[str, Tensor]) -> None:
        for site in self.sites:
            codes = self.codes[site.name]
            found = QuantizedWeight(codes.values, scales[site.name], codes.bits)
            weight = found.dequantize()
            site.write(weight, weight != 0)
            attach_grid(site, Grid(found.scale, found.bits))


def _two_bytes(scale: Tensor) -> Tensor:
    """Rounded to 11 significant bits."""
    bits = scale.float().contiguous().view(torch.int32)
    return ((bits + _FINER // 2) & -_FINER).view(torch.float32)


def _outputs(model: nn.Module, batches: Sequence[Any]) -> list[Tensor]:
    with inference(model):
        return [first_tensor(runner(None)(model, batch, i)).float().clone() for i, batch in enumerate(batches)]
