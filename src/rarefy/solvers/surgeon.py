"""The surgeon's step for many weights at once, each judged and repaired for by itself."""

import torch
from torch import Tensor

from rarefy.core.joint import JointSolution, Supports
from rarefy.solvers.fisher_inverse import FisherInverse


def saliency(weight: Tensor, diagonal: Tensor) -> Tensor:
    """w_q^2 / (2 [F^-1]_qq), by how much the quadratic rises when weight q goes and the others make up for it: (p,).

    Source: Hassibi and Stork 1992 (OBS), eq. 5.
    """
    return weight.double().square() / (2.0 * diagonal)


def operate(weight: Tensor, supports: Supports, inverse: FisherInverse) -> JointSolution:
    """Removes the weights of least saliency and adds up their repairs: w - F^-1 s, s_q = w_q / [F^-1]_qq where removed.

    Source: Singh and Alistarh 2020 (WoodFisher), arXiv:2004.14340, eq. 10 and section 4 (removing several weights).
    """
    diagonal = inverse.diagonal()
    mask = supports.select(saliency(weight, diagonal))
    removed = torch.where(mask, 0.0, weight.double() / diagonal)
    moved = weight.double() - inverse.times(removed)
    return JointSolution((moved * mask).to(weight.dtype), mask)
