"""Quantiles of |x| over a stream: a histogram by the leading bits of the float, of a fixed size however long the text.

The bits of non-negative floats are ordered as the floats are. The first 16 of the 31 (8 of the exponent, 8 of the
fraction) make 65,536 bins, each 0.4 % wide relative to its values, over the whole range of the type: no range has to be
guessed, and half a MiB holds any number of tokens.
"""

import math

import torch
from torch import Tensor

from rarefy.core.errors import DataError, SparsityError

_DROPPED = 15
_BINS = 1 << (31 - _DROPPED)
LEAST = 16
"""Tokens that have to lie on the rarer side of a quantile; fewer make it a guess."""


class Magnitudes:
    """How often which size was seen. `tokens`: rows added so far."""

    def __init__(self) -> None:
        self.counts = torch.zeros(_BINS, dtype=torch.long)
        self.tokens = 0

    def add(self, sizes: Tensor) -> None:
        """Counts non-negative finite values `(tokens, width)`."""
        if not sizes.isfinite().all():
            raise DataError("activations: hold NaN or infinity; check the model on the calibration data")
        bits = sizes.detach().float().cpu().contiguous().view(torch.int32) >> _DROPPED
        self.counts += torch.bincount(bits.flatten(), minlength=_BINS)
        self.tokens += len(sizes)

    @property
    def most(self) -> float:
        """The largest share whose quantile the tokens so far can tell."""
        return max(0.0, 1.0 - LEAST / max(1, self.tokens))

    def quantile(self, share: float) -> float:
        """The size that `share` of all values do not exceed; 0 where that many are zero. Error 0.4 % at most.

        Raises DataError if the text was too short to tell: fewer than 16 tokens on the rarer side.

        >>> seen = Magnitudes()
        >>> seen.add(torch.arange(1000.0)[:, None])
        >>> abs(seen.quantile(0.9) - 900) < 4
        True
        """
        if not 0.0 <= share < 1.0:
            raise SparsityError(f"quantile: share {share} is outside [0, 1)")
        if share == 0.0:
            return 0.0
        need = tokens_needed(share)
        if self.tokens < need:
            raise DataError(
                f"calibration: {self.tokens} tokens are too few for the {share:.3g} quantile, which takes {need}; "
                "give more or longer batches in data="
            )
        below = self.counts.cumsum(0)
        wanted = share * float(below[-1])
        found = int(torch.searchsorted(below.double(), wanted))
        if found == 0:
            return 0.0
        inside = (wanted - float(below[found - 1])) / max(1, int(self.counts[found]))
        low, high = _edge(found), _edge(min(found + 1, _BINS - 1))
        return low + (high - low) * inside


def tokens_needed(share: float) -> int:
    """How many tokens a quantile takes, so that 16 lie on its rarer side.

    >>> tokens_needed(0.5), tokens_needed(0.99)
    (32, 1600)
    """
    return math.ceil(LEAST / min(share, 1.0 - share) - 1e-6) if 0.0 < share < 1.0 else 1


def _edge(bin: int) -> float:
    return float(torch.tensor(bin << _DROPPED, dtype=torch.int32).view(torch.float32))
