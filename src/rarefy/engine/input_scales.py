"""Static scales of 8-bit inputs, from what each layer saw on a few batches."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, call_model, inference
from rarefy.core.errors import DataError
from rarefy.core.site import Site

_SAMPLES = 1 << 16  # values kept of a layer, for the choice of its range
_TAILS = (0.0, 1e-5, 1e-4, 5e-4, 2e-3, 1e-2)  # shares of the values beyond a range that is tried
_LEVELS = 255

InputScale = tuple[float, int]  # scale, zero point: x ~ scale * (q - zero), q in [0, 255]


class _Seen:
    """The extremes of all values and a random sample of them (every n-th would meet the same columns again)."""

    def __init__(self) -> None:
        self.low, self.high = float("inf"), float("-inf")
        self.sample: list[Tensor] = []
        self._random = torch.Generator().manual_seed(0)

    def add(self, x: Tensor, share: int) -> None:
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        flat = x.detach().reshape(-1)
        chosen = torch.randint(flat.numel(), (min(share, flat.numel()),), generator=self._random)
        self.sample.append(flat[chosen].float())


def scale_of(low: float, high: float) -> InputScale:
    """The scale and zero point of 8 bits that span [low, high], widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / _LEVELS, torch.finfo(torch.float32).tiny)
    return scale, round(-low / scale)


def rounded(x: Tensor, scale: InputScale) -> Tensor:
    """What is left of x after 8 bits."""
    step, zero = scale
    return ((x / step).round() + zero).clamp(0, _LEVELS).sub(zero) * step


def best_scale(sample: Tensor, low: float, high: float) -> InputScale:
    """The range with the least mean squared error on the sample, among ranges that cut off a small share of a tail.

    low, high: the extremes of all values, which the sample may have missed. A tail may hold a few huge values whose
    loss costs less than the coarser steps that would keep them.
    """
    ordered = sample.sort().values
    last = ordered.numel() - 1
    lows = {low, *(float(ordered[int(t * last)]) for t in _TAILS[1:])}
    highs = {high, *(float(ordered[last - int(t * last)]) for t in _TAILS[1:])}
    scales = [scale_of(a, b) for a, b in product(sorted(lows), sorted(highs))]
    errors = [float((rounded(sample, s) - sample).square().sum()) for s in scales]
    return scales[min(range(len(scales)), key=errors.__getitem__)]


def input_scales(model: nn.Module, sites: Sequence[Site], data: object) -> dict[str, InputScale]:
    """The scale and zero point of each site's inputs by its name, from the batches of `data`.

    A site that no batch reaches is left out. Raises DataError for data that is not batches, or a NaN on the way.
    """
    batches = as_batches(data, method="compile(activations='int8')", needed=True)
    seen = {site.name: _Seen() for site in sites}
    share = max(1, _SAMPLES // len(batches))

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            if x.numel():
                seen[name].add(x, share)

        return note

    hooks = [m.register_forward_pre_hook(hook(s.name), with_kwargs=True) for s in sites for m in s.modules]
    try:
        with inference(model):
            for index, batch in enumerate(batches):
                call_model(model, batch, index)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: _finished(name, s) for name, s in seen.items() if s.sample}


def _finished(name: str, seen: _Seen) -> InputScale:
    if not (abs(seen.low) < float("inf") and abs(seen.high) < float("inf")):
        raise DataError(f"compile: the inputs of {name} reach {seen.low}..{seen.high} on data; clean the data")
    return best_scale(torch.cat(seen.sample), seen.low, seen.high)
