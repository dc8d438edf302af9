"""Whether a sparse net was trained long enough."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.errors import DataError
from rarefy.core.registry import method


@dataclass(frozen=True)
class Training:
    """Mean cross-entropy and mean entropy of a classifier's outputs, in nats, over `samples` samples."""

    loss: float
    entropy: float
    samples: int


@method("under-training", role="study", source="Kuznedelev et al. 2023, arXiv:2308.02060, section 3")
@torch.no_grad()
def under_training(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Training:
    """Training loss and output entropy of a classifier: a sparse net above its dense one in both is under-trained.

    batches: (inputs, classes) of the training data. The model is put into evaluation mode meanwhile.
    """
    was, loss, entropy, samples = model.training, 0.0, 0.0, 0
    model.eval()
    try:
        for x, y in batches:
            log = F.log_softmax(model(x).float().flatten(0, -2), -1)
            loss += float(F.nll_loss(log, y.flatten(), reduction="sum"))
            entropy -= float((log.exp() * log).sum())
            samples += y.numel()
    finally:
        model.train(was)
    if samples == 0:
        raise DataError("under_training: no batches; give (inputs, classes) of the training data")
    return Training(loss / samples, entropy / samples, samples)
