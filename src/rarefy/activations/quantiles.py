"""From the words of a method (a share of zeros, a weight for each input) to a selector, by one calibration pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rarefy.activations.job import Job
from rarefy.calibration.magnitudes import Magnitudes
from rarefy.calibration.taps import tap
from rarefy.core.errors import UnknownNameError
from rarefy.core.topk import exact_count
from rarefy.selectors.attach import Masking
from rarefy.selectors.masked import sizes
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import Projection
from rarefy.selectors.threshold import Threshold
from rarefy.selectors.top_k import TopK

Form = Literal["threshold", "top-k"]
Weigh = Callable[[Projection], Tensor | None]  # the weight (width,) of |x| at a place


def unweighted(place: Projection) -> Tensor | None:
    return None


def column_norms(place: Projection) -> Tensor:
    """`||W_:,j||_2`, `(in,)` float32."""
    return weight_of(place.module).float().norm(dim=0)


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes the selector of a place for any share of zeros, from what calibration saw there."""

    width: int
    weight: Tensor | None
    seen: Magnitudes | None  # None: exact counts, which need no calibration

    @property
    def most(self) -> float:
        """The largest share of zeros that calibration can tell."""
        return 1.0 if self.seen is None else self.seen.most

    @property
    def least(self) -> float:
        """The smallest share of zeros, above none, that calibration can tell."""
        return 0.0 if self.seen is None else 1.0 - self.seen.most

    def __call__(self, sparsity: float) -> Masking:
        if self.seen is None:
            return TopK(exact_count(self.width, 1.0 - sparsity), self.weight)
        return Threshold(cutoff(self.seen, sparsity), self.weight)


def cutoff(seen: Magnitudes, sparsity: float) -> Tensor:
    """The threshold `()` that drops this share: below 0 for none (zeros neither), infinite for all."""
    if sparsity in (0.0, 1.0):
        return torch.tensor(-1.0 if sparsity == 0.0 else torch.inf)
    return torch.tensor(seen.quantile(sparsity))


def require_form(form: str) -> None:
    if form not in ("threshold", "top-k"):
        raise UnknownNameError(f"form: {form!r} is neither 'threshold' nor 'top-k'")


def makers(job: Job, form: Form, weigh: Weigh = unweighted) -> dict[str, Maker]:
    """{place: maker} of every place of the job, in one pass (none at all for exact counts)."""
    require_form(form)
    found = {}
    for place in job.places:
        seen = Magnitudes() if form == "threshold" else None
        found[place.name] = Maker(weight_of(place.module).shape[1], weigh(place), seen)
    if form == "threshold":
        watch(job, [(place, found[place.name]) for place in job.places])
    return found


def watch(job: Job, pairs: Sequence[tuple[Projection, Maker]]) -> None:
    """Fills the makers' histograms in one pass over the calibration text."""

    def look(maker: Maker) -> Any:
        assert maker.seen is not None
        return lambda x: maker.seen.add(sizes(x, maker.weight))

    tap(job.model, job.batches, inputs={place.module: look(maker) for place, maker in pairs}, run=job.run)
