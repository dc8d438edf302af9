"""Grouped N:M, for few tokens."""

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from rarefy.ops.families.matvec import MOST_TOKENS
from rarefy.ops.native import KernelInfo

WIDEST = 65536  # inputs
_MOST_KEPT, _MOST_WAYS, _WIDEST_GROUP = 8, 256, 16  # as native/pack/nmg.cc has them


def worth(kernels: Sequence[KernelInfo], weight: Tensor, tokens: int) -> list[str]:
    """All of them where every row uses each way to keep N of M inputs equally often."""
    if tokens > MOST_TOKENS or weight.numel() == 0 or weight.shape[1] > WIDEST or not is_grouped(weight != 0):
        return []
    return [k.name for k in kernels]


def is_grouped(mask: Tensor) -> bool:
    """Whether a mask (out, in) is a grouped N:M over whole rows, for some N and M."""
    width = mask.shape[1]
    for m in range(2, _WIDEST_GROUP + 1):
        n = int(mask[0, :m].sum())
        if width % m or not 0 < n < min(m, _MOST_KEPT + 1) or comb(m, n) > _MOST_WAYS or width // m % comb(m, n):
            continue
        groups = mask.reshape(mask.shape[0], -1, m)
        if not bool((groups.sum(2) == n).all()):
            continue
        codes = (groups.int() << torch.arange(m, dtype=torch.int32)).sum(2).sort(1).values
        each = codes.reshape(mask.shape[0], comb(m, n), -1)  # equally many of each: runs of one length, all different
        runs = bool((each == each[:, :, :1]).all())
        if runs and bool((each[:, 1:, 0] != each[:, :-1, 0]).all()):
            return True
    return False
