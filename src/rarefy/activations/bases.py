"""The bases that a model is turned into: of what flows (principal components) or of what reads (singular vectors)."""

from typing import Any

import torch
from torch import Tensor

from rarefy.activations.job import Job
from rarefy.activations.rotation import Turnable
from rarefy.calibration.taps import Covariance, tap
from rarefy.selectors.matrix import weight_of


def principal(job: Job, found: Turnable) -> dict[int, Tensor]:
    """{block: eigenvectors (width, width), largest first} of the inputs of its attention and feed-forward together.

    The inputs are those behind the norms without their gain, which is moved into the weights.
    """
    seen = {number: Covariance() for number in found.blocks}
    taps: dict[Any, Any] = {}
    for number, block in found.blocks.items():
        taps[block.norm] = taps[block.inner_norm] = _unit_rms(seen[number])
    tap(job.model, job.batches, inputs=taps, run=job.run)
    return {number: descending(covariance) for number, covariance in seen.items()}


def _unit_rms(covariance: Covariance) -> Any:
    return lambda x: covariance.add(x / x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12))


def descending(covariance: Covariance) -> Tensor:
    assert covariance.total is not None
    return torch.linalg.eigh(covariance.total).eigenvectors.flip(1)


def reading(weight: Tensor, gain: Tensor) -> Tensor:
    """The right singular vectors (width, width) of a weight (out, width) times the norm's gain (width,).

    In this basis the columns of the weight are orthogonal to each other.
    """
    return torch.linalg.svd(weight.double() * gain.double(), full_matrices=True).Vh.T


def reading_bases(found: Turnable) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """(bases for k_proj, bases for gate_proj), by block."""
    outer, inner = {}, {}
    for number, block in found.blocks.items():
        outer[number] = reading(weight_of(block.readers[1]), _gain(block.norm))
        inner[number] = reading(weight_of(block.inner_readers[0]), _gain(block.inner_norm))
    return outer, inner


def _gain(norm: Any) -> Tensor:
    gain: Tensor = norm.weight.detach()
    return gain
