"""Cosines and sines of the rotary embedding by position, computed by the model's own module: scalings are right by
construction, whatever they are."""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import EngineError


class RotaryTable:
    """(cosine, sine), each (positions, depth / 2) float32, grown to what was asked for."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._lock = module, threading.Lock()
        self._table = (torch.empty(0, 0), torch.empty(0, 0))

    def __reduce__(self) -> tuple[Any, ...]:
        return RotaryTable, (self._module,)

    def at_least(self, positions: int) -> tuple[Tensor, Tensor]:
        """The tables of at least so many positions. Raises EngineError where the two halves of a head turn apart."""
        table = self._table
        if table[0].shape[0] >= positions:
            return table
        with self._lock:
            if self._table[0].shape[0] < positions:
                self._table = self._compute(max(positions, 2 * self._table[0].shape[0], 256))
            return self._table

    def _compute(self, positions: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            cosine, sine = self._module(torch.empty(1, 1, dtype=torch.float32), torch.arange(positions).unsqueeze(0))
        half = cosine.shape[-1] // 2
        for table in (cosine, sine):
            if not torch.equal(table[..., :half], table[..., half:]):
                raise EngineError("rotary embedding: the halves of a head have different angles; no kernel turns these")
        return cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous()
