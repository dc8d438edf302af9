"""Static scales of 8-bit inputs, from what each layer saw on a few batches."""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn

from rarefy.core.grid import codes_of
from rarefy.core.quantized import InputScale, QuantizedWeight, quantize_weight
from rarefy.core.site import Site
from rarefy.engine.seen_inputs import Seen, seen_inputs

Stored = Callable[[Tensor], Tensor | QuantizedWeight]  # a weight (out, in) as a layer will hold it

_SAMPLES = 1 << 16  # values of a layer's rows with which ranges are tried
_TAILS = (0.0, 1e-5, 1e-4, 5e-4, 2e-3, 1e-2)  # shares of the values beyond a range that is tried
_LEVELS = 255
_SHARES = (0.5, 0.65, 0.8, 0.9)  # of an input's range that the weight takes over
_LEAST_FACTOR = 0.03  # of the largest range: an input or a column of the weight counts as at least so large
_WORTH = 0.97  # factors have to lower the error of the outputs to this share of what it is without


def scale_of(low: float, high: float) -> InputScale:
    """The scale and zero point of 8 bits that span [low, high], widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / _LEVELS, torch.finfo(torch.float32).tiny)
    return InputScale(scale, round(-low / scale))


def best_scale(sample: Tensor, low: float, high: float, weight: Tensor | None = None) -> InputScale:
    """The range with the least squared error on the sample, among ranges that cut off a small share of a tail.

    sample (...) or (rows, in), then each input's error counts by `weight` (in); low, high: the extremes of all values,
    which the sample may have missed. A tail may hold a few huge values whose loss costs less than the coarser steps
    that would keep them.
    """
    ordered = sample.flatten().sort().values
    last = ordered.numel() - 1
    lows = {low, *(float(ordered[int(t * last)]) for t in _TAILS[1:])}
    highs = {high, *(float(ordered[last - int(t * last)]) for t in _TAILS[1:])}
    scales = [scale_of(a, b) for a, b in product(sorted(lows), sorted(highs))]
    by = torch.ones(()) if weight is None else weight
    errors = [float(((s.rounded(sample) - sample).square() * by).sum()) for s in scales]
    return scales[min(range(len(scales)), key=errors.__getitem__)]


def factors_of(seen: Seen, weights: Sequence[Tensor], share: float) -> Tensor:
    """How much wider than the others each input is, as far as its weights can take it over; 1 on average (geometric).

    factor_k = max|x_k|^share / max|w_k|^(1 - share), over all the weights (out, in) that multiply these inputs.

    Source: arXiv:2211.10438 eq. 4.
    """
    assert seen.low is not None and seen.high is not None
    inputs = torch.maximum(seen.low.abs(), seen.high.abs())
    columns = torch.stack([w.abs().amax(0) for w in weights]).amax(0)
    inputs, columns = (v.clamp_min(_LEAST_FACTOR * float(v.max())).clamp_min(1e-30) for v in (inputs, columns))
    logs = share * inputs.log() - (1 - share) * columns.log()
    return (logs - logs.mean()).exp()


def choose_scale(seen: Seen, weights: Sequence[Tensor], stored: Stored = quantize_weight) -> InputScale:
    """The scale, with factors or without, with which layers of these weights (out, in) lose least on what was seen.

    The loss is the squared difference of x W^T from what 8-bit inputs and the stored weights make of it, on other rows
    than those that the scale was fitted to: inputs that were seen a few times only should not look narrow.
    """
    losses = [0.0] * (len(_SHARES) + 1)
    halves = seen.halves()
    for fitted, rows in (halves, halves[::-1]):
        for option, share in enumerate((None, *_SHARES)):
            scale = _fitted(fitted, weights, share)
            losses[option] += sum(_loss(rows.rows, weight, scale, stored) for weight in weights)
    best = min(range(1, len(losses)), key=losses.__getitem__)
    return _fitted(seen, weights, _SHARES[best - 1] if losses[best] < _WORTH * losses[0] else None)


def _loss(rows: Tensor, weight: Tensor, scale: InputScale, stored: Stored) -> float:
    held = stored(scale.folded(weight))
    held = held.dequantize() if isinstance(held, QuantizedWeight) else held
    divided = torch.tensor(scale.factors) if scale.factors else 1.0
    return float((rows @ weight.T - (scale.rounded(rows) / divided) @ held.T).square().sum())


def _fitted(seen: Seen, weights: Sequence[Tensor], share: float | None) -> InputScale:
    """With factors of this share, or without any."""
    assert seen.low is not None and seen.high is not None
    if share is None:
        return _best(seen.rows, seen.low, seen.high, weights)
    factors = [float(f"{factor:.3g}") for factor in factors_of(seen, weights, share)]  # short in a file
    by = torch.tensor(factors)
    plain = _best(seen.rows / by, seen.low / by, seen.high / by, [weight * by for weight in weights])
    return InputScale(plain.scale, plain.zero, tuple(factors))


def _best(rows: Tensor, low: Tensor, high: Tensor, weights: Sequence[Tensor]) -> InputScale:
    """Independent errors of the inputs add up in the outputs, each as the squares of its column of the weights."""
    columns = torch.stack([w.square().sum(0) for w in weights]).sum(0)
    few = rows[: max(1, _SAMPLES // rows.shape[1])]
    return best_scale(few, float(low.min()), float(high.max()), columns)


def _weight(site: Site) -> Tensor:
    weight = site.parameter.detach().float()
    return weight.t() if site.transposed else weight


def input_scales(
    model: nn.Module, sites: Sequence[Site], data: object, stored: Stored = quantize_weight
) -> dict[str, InputScale]:
    """The scale of each site's 8-bit inputs by its name, from the batches of `data`; sites of one input share it.

    A site that no batch reaches is left out. Raises DataError for data that is not batches, or a NaN on the way.
    """
    sites = [site for site in sites if site.parameter.dim() == 2]
    seen = seen_inputs(model, sites, data)
    readers: dict[bytes, list[Site]] = {}
    for site in sites:
        if site.name in seen:
            readers.setdefault(seen[site.name].key, []).append(site)
    chosen: dict[str, InputScale] = {}
    for group in readers.values():
        shown, weights = seen[group[0].name], [_weight(site) for site in group]
        kept = any(codes_of(site.module) is not None for site in group)  # factors would take them off their grid
        scale = _fitted(shown, weights, None) if kept else choose_scale(shown, weights, stored)
        chosen.update({site.name: scale for site in group})
    return chosen
