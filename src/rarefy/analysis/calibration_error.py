"""How far a classifier's confidence is from how often it is right."""

from dataclasses import dataclass

from torch import Tensor

from rarefy.core.errors import DataError


@dataclass(frozen=True)
class Reliability:
    """error: the expected calibration error; bins: (samples, mean confidence, accuracy) of each that has samples."""

    error: float
    bins: tuple[tuple[int, float, float], ...]


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """`sum over bins of (samples / all) |accuracy - mean confidence|`, bins of equal width over the confidence.

    logits: (samples, classes); a confidence at a border falls into the lower bin.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3.
    """
    if logits.dim() != 2 or logits.shape[0] != labels.shape[0] or not len(labels) or bins < 1:
        raise DataError(f"reliability: logits {tuple(logits.shape)}, labels {tuple(labels.shape)}, {bins} bins")
    confidence, chosen = logits.double().softmax(1).max(1)
    right = (chosen == labels).double()
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    rows = []
    for b in range(bins):
        inside = index == b
        if bool(inside.any()):
            rows.append((int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean())))
    error = sum(count * abs(accuracy - mean) for count, mean, accuracy in rows) / len(labels)
    return Reliability(error, tuple(rows))
