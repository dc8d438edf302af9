"""How well something was unlearned: beside a model that never saw it."""

from dataclasses import astuple, dataclass

import torch
from torch import Tensor, nn

from rarefy.calibration.batches import evaluation

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class UnlearningMetrics:
    """Shares in [0, 1]. forgotten: error on the forgotten examples (UA); unseen: forgotten examples that an attack
    takes for not trained on (MIA-Efficacy); retained, test: accuracy on what stays and on new data (RA, TA).

    Source: Jia et al. 2023, arXiv:2304.04934, section 5.1. Time is in `Unlearned.seconds`.
    """

    forgotten: float
    unseen: float
    retained: float
    test: float

    def gap(self, retrained: "UnlearningMetrics") -> float:
        """The mean absolute difference of the four from those of a model that was trained anew without the data."""
        pairs = list(zip(astuple(self), astuple(retrained), strict=True))
        return float(sum(abs(a - b) for a, b in pairs) / len(pairs))


def unlearning_metrics(model: nn.Module, retain: Examples, forget: Examples, test: Examples) -> UnlearningMetrics:
    """The four metrics of a classifier.

    The attack knows the confidence in the true class, and learns from retained (seen) and test examples (unseen), both
    kinds with equal weight. Differs: one threshold; the paper fits a support-vector machine to that number.
    """
    seen, right_retain = _confidence(model, retain)
    unseen, right_test = _confidence(model, test)
    asked, right_forget = _confidence(model, forget)
    limit = best_threshold(seen, unseen)
    return UnlearningMetrics(1.0 - right_forget, float((asked < limit).double().mean()), right_retain, right_test)


def best_threshold(seen: Tensor, unseen: Tensor) -> float:
    """The number at which `confidence >= number` best tells seen from unseen examples, both kinds weighing the same."""
    values = torch.cat([seen, unseen]).double()
    weight = torch.cat([torch.full_like(seen, 1 / len(seen)), torch.full_like(unseen, -1 / len(unseen))]).double()
    order = values.argsort(descending=True)
    gain = weight[order].cumsum(0)
    last = torch.ones(len(values), dtype=torch.bool)
    last[:-1] = values[order][1:] != values[order][:-1]  # equal values fall on one side together
    best = gain.masked_fill(~last, -torch.inf).argmax()
    return float(values[order][best])


@torch.no_grad()
def _confidence(model: nn.Module, data: Examples) -> tuple[Tensor, float]:
    """The probability of each true class, and the accuracy."""
    with evaluation(model):
        logits = model(data[0])
    confidence = logits.double().softmax(1).gather(1, data[1][:, None])[:, 0]
    return confidence, float((logits.argmax(1) == data[1]).double().mean())
