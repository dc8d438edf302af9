"""What becomes of the entries of a topology when it is edited."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.shapes import Bool, Int
from rarefy.training.runtime.places import picked, put_at


@dataclass(frozen=True)
class Move:
    """What becomes of the entries of a topology that is edited; the ones that stay keep their order.

    stays: which of the old ones are still there; fresh: which of the new ones were not.
    """

    stays: Bool[Tensor, " old"]
    fresh: Bool[Tensor, " nnz"]

    @property
    def source(self) -> Int[Tensor, " nnz"]:
        """The old entry of each new one, -1 for a fresh one."""
        out = torch.full((len(self.fresh),), -1)
        out[~self.fresh] = self.stays.nonzero().squeeze(1)
        return out

    def carry(self, values: Tensor, fresh: float | Tensor = 0.0) -> Tensor:
        """What belongs to the entries (weights, momentum) for the new topology; fresh entries get `fresh`.

        fresh: a number, or `(nnz,)` of which the fresh places are read.
        """
        out = values.new_empty(len(self.fresh))
        put_at(out, ~self.fresh, picked(values, self.stays))
        if isinstance(fresh, Tensor):
            return torch.where(self.fresh, fresh.to(out.dtype), out)
        return out.masked_fill_(self.fresh, fresh)
