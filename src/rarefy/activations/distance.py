"""How far a sparse model is from the dense one on a few batches: what a search over its parts makes small."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rarefy.activations.job import Job
from rarefy.calibration.batches import inference
from rarefy.calibration.chain import hidden


def outputs(job: Job) -> list[Tensor]:
    """What the model gives for each of the job's few batches: logits, hidden states, or a loss."""
    found = []
    with inference(job.model):
        for i, batch in enumerate(job.few):
            out: Any = job.run(job.model, batch, i)
            out = getattr(out, "logits", getattr(out, "last_hidden_state", out))
            found.append(hidden(out).detach().float())
    return found


def distance(now: Sequence[Tensor], dense: Sequence[Tensor]) -> float:
    """The mean loss where the model was run through one, else the mean divergence of the softmax from the dense one's.

    The divergence KL(dense || now) stands for the rise of perplexity without asking what the next token is.
    """
    if all(part.dim() == 0 for part in now):
        return float(torch.stack(list(now)).mean())
    parts = [
        F.kl_div(a.log_softmax(-1), b.log_softmax(-1), log_target=True, reduction="sum") / b[..., 0].numel()
        for a, b in zip(now, dense, strict=True)
    ]
    return float(torch.stack(parts).mean())
