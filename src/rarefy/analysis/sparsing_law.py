"""How sparse a model can be made at a given price in perplexity, and how that changes with the training data."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, inference
from rarefy.calibration.block_trials import count_tokens
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.registry import method
from rarefy.core.slicing import weight_rows
from rarefy.selectors import Threshold, select_inputs
from rarefy.selectors.readers import readers

Loss = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True)
class PPLSparsity:
    """cett: the shared truncation error; ratio: perplexity over dense; sparsity: share of neurons dropped a token.

    thresholds: {layer: t}: neuron i is dropped where |a_i| * |W_down[:, i]| <= t; layers: {layer: its sparsity}.
    """

    cett: float
    ratio: float
    sparsity: float
    layers: dict[str, float]
    thresholds: dict[str, float]


def cett(hidden: Tensor, weight: Tensor, dropped: Tensor) -> float:
    """Mean over tokens of |sum of the dropped contributions| / |output|, for hidden (tokens, n), weight (out, n).

    Source: Zhang et al. 2024 (ReLU2 wins), arXiv:2402.03804, eq. 3. Tokens whose output is zero count 0.
    """
    lost, whole = ((h @ weight.T).norm(dim=1) for h in (hidden * dropped, hidden))
    return float(torch.where(whole > 0, lost / whole.clamp_min(1e-30), torch.zeros_like(whole)).mean())


def threshold_at(hidden: Tensor, weight: Tensor, scale: Tensor, error: float, steps: int = 30) -> float:
    """The largest t with cett <= error when neurons with |a| * scale <= t are dropped, by bisection; -1 drops none."""
    sizes = hidden.abs() * scale
    order = sizes.flatten().sort().values
    low, high = 0, len(order)  # how many of all sizes may be dropped
    for _ in range(min(steps, max(1, len(order)).bit_length() + 1)):
        middle = (low + high + 1) // 2
        fits = middle == 0 or cett(hidden, weight, sizes <= order[middle - 1]) <= error
        low, high = (middle, high) if fits else (low, middle - 1)
        if low >= high:
            break
    return float(order[low - 1]) if low else -1.0


@method("sparsing-law", role="study", source="Luo et al. 2024, arXiv:2411.02335, section 3 (PPL-p%) and 4.2 (laws)")
def ppl_sparsity(
    model: nn.Module,
    data: Iterable[Any],
    loss: Loss,
    *,
    rise: float = 0.01,
    layers: Sequence[str] | None = None,
    norms: bool = True,
    tokens: int = 512,
    tolerance: float = 5e-4,
) -> PPLSparsity:
    """PPL-p%: the largest shared truncation error at which perplexity is (1 + rise) of dense, and its sparsity.

    loss(model, batch): mean nats a token, on the same `data` that the thresholds come from; batches count by their
    tokens. layers: linear layers whose inputs are neurons, by default the down projections. norms: sizes are
    |a_i| |W_down[:, i]|, else |a_i| alone. tokens: how many tokens a layer set the thresholds. The model stays as it
    is. DataError where no error in (0, 1] reaches the ratio to `tolerance`.
    """
    if rise <= 0:
        raise SparsityError(f"ppl_sparsity: rise {rise} is not positive; 0.01 is one per cent")
    batches = as_batches(data, method="ppl_sparsity", needed=True)
    places = readers(model, layers, ("down",))
    seen = _sample(model, places, batches, tokens)
    dense = _mean_loss(model, batches, loss)
    low, high, best = 0.0, 1.0, None
    for _ in range(24):
        middle = (low + high) / 2
        best = _at(model, places, batches, loss, seen, middle, dense, norms)
        if abs(best.ratio - 1.0 - rise) <= tolerance:
            return best
        low, high = (middle, high) if best.ratio < 1.0 + rise else (low, middle)
    assert best is not None
    raise DataError(
        f"ppl_sparsity: perplexity is {best.ratio:.5f} of dense at a truncation error of {best.cett:.4g}, "
        f"which cannot be brought to {1 + rise:g}; give more data or a larger tolerance"
    )


def _sample(
    model: nn.Module, places: Mapping[str, nn.Module], batches: Sequence[Any], tokens: int
) -> dict[str, Tensor]:
    """{layer: (tokens, width)} of tokens spread over the data."""
    parts: dict[str, list[Tensor]] = {name: [] for name in places}
    each = max(1, tokens // len(batches))
    for inputs in layer_inputs(model, places, batches):
        for name, x in inputs.items():
            parts[name].append(x[:: max(1, len(x) // each)][:each].float())
    return {name: torch.cat(part) for name, part in parts.items()}


def _mean_loss(model: nn.Module, batches: Sequence[Any], loss: Loss) -> float:
    """Of a token: batches count by their tokens, so that a short last one weighs little."""
    counts = [count_tokens([batch]) for batch in batches]
    with inference(model):
        given = [float(loss(model, batch)) if count else 0.0 for batch, count in zip(batches, counts, strict=True)]
    return sum(value * count for value, count in zip(given, counts, strict=True)) / sum(counts)


def _at(
    model: nn.Module,
    places: Mapping[str, nn.Module],
    batches: Sequence[Any],
    loss: Loss,
    seen: Mapping[str, Tensor],
    error: float,
    dense: float,
    norms: bool,
) -> PPLSparsity:
    found, shares = {}, {}
    with ExitStack() as stack:
        for name, layer in places.items():
            weight = weight_rows(layer).float()
            scale = weight.norm(dim=0) if norms else torch.ones_like(weight[0])
            t = threshold_at(seen[name], weight, scale, error)
            chosen = Threshold(torch.tensor(t, device=scale.device), scale)
            stack.callback(select_inputs(layer, chosen).remove)
            found[name] = t
            shares[name] = 1.0 - float(chosen.mask(seen[name]).double().mean())
        ratio = math.exp(_mean_loss(model, batches, loss) - dense)
    return PPLSparsity(error, ratio, sum(shares.values()) / len(shares), shares, found)
