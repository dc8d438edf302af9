"""Rank correlation and ranked retrieval, as the benchmarks of sentence encoders define them."""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from rarefy.core.errors import DataError
from rarefy.core.shapes import Float


def spearman(a: Float[Tensor, "n"], b: Float[Tensor, "n"]) -> float:
    """Pearson's correlation of the ranks, ties given their mean rank; NaN where one side is constant.

    >>> import torch
    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float((x.square().sum() * y.square().sum()).sqrt())
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def ranks(values: Float[Tensor, "n"]) -> Tensor:
    """Ranks from 0 in float64; equal values share the mean of their ranks."""
    _, group, counts = values.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    return ((last - counts) + (last - 1)).double()[group] / 2


def ndcg(scores: Float[Tensor, "queries documents"], relevant: Sequence[Mapping[int, float]], top: int = 10) -> float:
    """Mean over queries of DCG / ideal DCG at `top`; a gain is the grade, the discount log2(rank + 1), ranks from 1.

    relevant: {document: grade > 0} of each query, none empty. Source: Jarvelin and Kekalainen 2002, as trec_eval.
    """
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    found = []
    for row, grades in zip(best.tolist(), relevant, strict=True):
        if not grades:
            raise DataError("ndcg: a query without a relevant document has no ideal ranking; leave it out")
        ideal = _gain(sorted(grades.values(), reverse=True)[:top])
        found.append(_gain([grades.get(document, 0.0) for document in row]) / ideal)
    return sum(found) / len(found)


def _gain(grades: Sequence[float]) -> float:
    return sum(grade / math.log2(rank + 2) for rank, grade in enumerate(grades))
