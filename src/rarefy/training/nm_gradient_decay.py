"""N:M training in which what is pruned fades out: by a mask that decays, or by a pattern that tightens."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from rarefy.core.errors import ShapeError, SparsityError, unknown_name
from rarefy.core.protocols import Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.nm import NM
from rarefy.training.method import SparseMethod
from rarefy.training.refresh import Refresh
from rarefy.training.run import Run
from rarefy.training.starts import DenseStart, MagnitudeStart
from rarefy.training.straight_through import StraightThrough
from rarefy.training.turns import turn


@dataclass(frozen=True)
class Fade:
    """b(t): 1 until the share `begin`, then down to 0 at the share `end`, where it stays.

    linear: 1 - p; exponential: exp(-rate * p), p being how much of the way is done.
    """

    begin: float
    end: float
    rate: float | None = None

    def __call__(self, step: int, total: int) -> float:
        first, last = self.begin * total, self.end * total
        if step >= round(last):
            return 0.0
        done = max(0.0, (step - first) / (last - first))
        return 1.0 - done if self.rate is None else math.exp(-self.rate * done)


@dataclass(frozen=True)
class Fading:
    """The forward pass sees w * (K + b (1 - K)), K the mask; `scaled`: so does the gradient, else it passes as it is.

    Source: Bambhaniya et al. 2024 (MdGf), arXiv:2402.04744, section 4.
    """

    fade: Fade
    scaled: bool = True
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = False  # not before the end
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def gate(self, weight: Weight, state: Any) -> Weight:
        """K + b (1 - K), (out, in)."""
        return state.mask + self.fade(state.step, state.total_steps) * (~state.mask).to(weight.dtype)

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * self.gate(weight, state)

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad * self.gate(weight, state) if self.scaled else grad

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@dataclass(frozen=True)
class FadingRefresh:
    """`Refresh` every step while the mask fades, none afterwards."""

    end: float
    needs_end: ClassVar[bool] = True

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        if run.step + 1 <= round(self.end * run.end("nm-gradient-decay")):
            Refresh(1).after(run)


def tightening(pattern: NM, geometric: bool) -> list[NM]:
    """The patterns from loose to tight that end with the asked one.

    stepwise: (M-1):M, then M/2:M, M/4:M, ... N:M. geometric: kN:kM for k = 16, 8, 4, 2, 1.

    >>> [str(p) for p in tightening(NM(1, 8), geometric=False)]
    ['7:8', '4:8', '2:8', '1:8']
    """
    if geometric:
        return [NM(k * pattern.n, k * pattern.m) for k in (16, 8, 4, 2, 1)]
    found, kept = [NM(pattern.m - 1, pattern.m)], pattern.m // 2
    while kept > pattern.n:
        found.append(NM(kept, pattern.m))
        kept //= 2
    return [p for p in found if p.n > pattern.n] + [pattern]


@dataclass(frozen=True)
class Tighten:
    """Masks of ever tighter patterns, each for an equal share of the steps between `begin` and `end`.

    Source: Bambhaniya et al. 2024 (SdGf), arXiv:2402.04744, section 4.
    """

    begin: float
    end: float
    geometric: bool
    needs_end: ClassVar[bool] = True

    def pattern(self, final: NM, columns: int, step: int, total: int) -> NM | None:
        """The pattern of a weight at a step; None while it is dense. Groups wider than fit into a row are left out."""
        if step < round(self.begin * total):
            return None
        frames = [p for p in tightening(final, self.geometric) if columns % p.m == 0]
        done = (step - self.begin * total) / ((self.end - self.begin) * total)
        return frames[min(len(frames) - 1, int(done * len(frames)))]

    def before(self, run: Run) -> bool:
        return False

    def after(self, run: Run) -> None:
        done, total = run.step + 1, run.end("nm-gradient-decay")
        for state in turn(run, done <= round(self.end * total)):
            pattern = self.pattern(_nm(state.pattern), state.weight.shape[1], done, total)
            if pattern is not None:
                run.set_mask(state, pattern.select(state.value().float().abs(), pattern.density))


def _nm(pattern: Pattern) -> NM:
    if not isinstance(pattern, NM):
        raise ShapeError(
            f"nm-gradient-decay: {pattern} has no N of M to tighten; give an N:M pattern, or fade the mask"
        )
    return pattern


_KINDS = ("linear", "exponential", "stepwise", "geometric")


@method(
    "nm-gradient-decay",
    source="Bambhaniya et al. 2024, arXiv:2402.04744, section 4",
    protocols=("transform", "schedule"),
)
def nm_gradient_decay(
    *,
    pattern: Pattern = NM(2, 4),
    kind: str = "exponential",
    begin: float = 0.1,
    end: float = 0.75,
    rate: float = 5.0,
    scaled: bool = True,
) -> SparseMethod:
    """Sparse training whose pruned weights fade out slowly: a mask that decays to 0, or a pattern that tightens.

    kind: "linear" and "exponential" (with `rate`) let the mask of pruned weights decay from 1 at the share `begin` of
    total_steps to 0 at `end`; "stepwise" and "geometric" tighten an N:M pattern over equal frames between them. The
    mask is chosen by magnitude at every step until `end` and then stays. scaled: whether gradients of pruned weights
    are scaled like the weights, as the paper says (its code lets them pass).
    """
    if kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    if not 0.0 <= begin < end <= 1.0:
        raise SparsityError(f"begin={begin}, end={end}: shares of the steps, 0 <= begin < end <= 1")
    if kind in ("stepwise", "geometric"):
        _nm(pattern)
        topology = Tighten(begin, end, kind == "geometric")
        return SparseMethod(DenseStart(), topology, StraightThrough(), pattern=pattern)
    fading = Fading(Fade(begin, end, rate if kind == "exponential" else None), scaled)
    return SparseMethod(MagnitudeStart(), FadingRefresh(end), fading, pattern=pattern)
