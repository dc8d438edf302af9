"""Making a rounded block give again what its dense self gave, its weights moving on their grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.calibration.blocks import Inputs
from rarefy.calibration.match import Fit, run_fit
from rarefy.core.errors import SparsityError
from rarefy.core.grid import Grid, grid_of
from rarefy.core.site import Site


@dataclass(frozen=True)
class GridMatch:
    """Adam on min over batches of |f(x; round(W)) - wanted|^2 over the kept weights W of a block.

    The block computes with W rounded to the grids that its layers have; the gradient takes the rounding for the
    identity where W is inside the grid (straight through). Units of `unit` inputs that are all zero stay zero. What is
    kept is the best state that any pass over the batches ended with, so a block is never worse than it was.
    passes: over the batches; rate: of Adam, as a share of the root mean square of each tensor.
    Source: Zeng et al. 2024 (GQSA), arXiv:2412.17560, section 3 (BQPO). Differs: steps relative to the size of the
    weights; scales wait for the second stage.
    """

    passes: int = 10
    rate: float = 0.02
    unit: int = 16

    def __post_init__(self) -> None:
        if self.passes < 1 or self.rate <= 0 or self.unit < 1:
            raise SparsityError(f"{self}: needs passes >= 1, a rate above 0 and unit >= 1")

    def __call__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
    ) -> tuple[float, float]:
        """Fits the block in place. Returns its relative squared output error before and after."""
        return run_fit(_GridFit(block, sites, inputs, wanted, real, self.unit), self.passes, self.rate)


class _GridFit(Fit):
    def __init__(
        self,
        block: nn.Module,
        sites: Sequence[Site],
        inputs: Inputs,
        wanted: Sequence[Tensor],
        real: list[Tensor | None],
        unit: int,
    ) -> None:
        super().__init__(block, sites, inputs, wanted, real)
        of_weight = {id(site.parameter): site for site in sites}
        self.grids: dict[str, tuple[Site, Grid, Tensor]] = {}
        for name, parameter in self.moving.items():
            site = of_weight.get(id(parameter))
            grid = None if site is None else grid_of(site.module)
            if site is not None and grid is not None:
                alive = _alive(site.as_matrix(parameter.detach()), unit)
                self.grids[name] = site, grid, alive
                self.keep[name] = alive.t() if site.transposed else alive.reshape(parameter.shape)
        self.masters = {name: master for name, master in self.masters.items() if name in self.grids}
        self.moving = {name: self.moving[name] for name in self.masters}

    def view(self, name: str, master: Tensor) -> Tensor:
        site, grid, alive = self.grids[name]
        weight = site.as_matrix(master)
        codes = grid.round(weight.detach())
        inside = codes.values.abs() <= codes.largest - 1
        on_grid = torch.where(alive, codes.dequantize(), 0.0)
        through = torch.where(inside, weight - weight.detach(), 0.0)  # nothing but the gradient
        found = on_grid + through
        return found.t() if site.transposed else found.reshape(master.shape)


def _alive(weight: Tensor, unit: int) -> Tensor:
    """(out, in): the entries of units of which anything is left."""
    rows, width = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -width % unit)).reshape(rows, -1, unit)
    return padded.ne(0).any(2).repeat_interleave(unit, 1)[:, :width]
