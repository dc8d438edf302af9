"""R-Sparse: large inputs meet the whole weight, small ones its low-rank part; how much of each is searched."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from rarefy.activations.allocate import STEP, Allocation, require_allocation, spread
from rarefy.activations.distance import distance, outputs
from rarefy.activations.evolve import Genes, evolve
from rarefy.activations.inputs import placed, require_settle
from rarefy.activations.job import Job, Placed
from rarefy.activations.quantiles import Maker, column_norms, unweighted, watch
from rarefy.activations.rank_aware import RankAware, factors, replace_module
from rarefy.calibration.magnitudes import Magnitudes
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.selectors.attach import reselect_inputs, select_inputs
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import Projection

_START = (1.0, 0.95, 0.9, 0.8, 0.6)


@method(
    "r-sparse",
    role="selector",
    protocols=("selector", "method"),
    source="Zhang et al. 2025, arXiv:2504.19449, eqs. 3-5, algorithm 1",
)
@dataclass(frozen=True)
class RSparse:
    """W (x * m) + U_r S_r V_r' (x * (1 - m)): large inputs meet the columns, small ones the low rank.

    m keeps the largest |x_j| ||W_:,j||. rho: the columns' share of what is read, the rest is rank; the same for all
    places, or None: searched for each on the calibration text. 1 is thresholding alone, by |x_j|.
    generations, population: of the search. settle: as TEAL's.
    allocation: "uniform", the same budget of every place (the recipe that the authors published), or "greedy": TEAL's
    shares with its `step`, of which each place then spends its own on columns and rank.
    The layers become `RankAware` modules, which hold the factors as buffers.
    Differs: the search makes the divergence from the dense model's output small (the loss, where one is given),
    starting from equal shares; prefill is as sparse as decoding.
    """

    rho: float | None = None
    generations: int = 6
    population: int = 12
    settle: int = 1
    allocation: Allocation = "uniform"
    step: float = STEP

    def __call__(self, job: Job) -> list[Placed]:
        if self.rho is not None and not 0.0 <= self.rho <= 1.0:
            raise SparsityError(f"r-sparse: rho {self.rho} is outside [0, 1]; it is the columns' share of what is read")
        require_allocation(job, self.allocation, self.step)
        require_settle(self.settle)
        if not job.places:
            return []
        plain, weighted = _calibrated(job)
        shares = spread(job, plain, self.allocation, self.step)
        trial = _Trial(job, plain, weighted, {name: 1.0 - share for name, share in shares.items()})
        for place in job.places:
            job.undo.append(partial(replace_module, job.model, place.name, place.module))
        trial.build()
        rhos = self._rhos(job, trial)
        trial.finish(rhos, self.settle)
        return trial.placed(rhos)

    def _rhos(self, job: Job, trial: "_Trial") -> Genes:
        count = len(job.places)
        if self.rho is not None:
            return (self.rho,) * count
        start = [(value,) * count for value in _START]
        return evolve(trial.loss, start, generations=self.generations, population=self.population, seed=job.seed)


def _calibrated(job: Job) -> tuple[dict[str, Maker], dict[str, Maker]]:
    """Makers by |x_j| alone and by |x_j| times the column norm."""
    both = []
    for weigh in (unweighted, column_norms):
        made = {p.name: Maker(weight_of(p.module).shape[1], weigh(p), Magnitudes()) for p in job.places}
        watch(job, [(place, made[place.name]) for place in job.places])
        both.append(made)
    return both[0], both[1]


def rank_of(place: Projection, density: float, rho: float) -> int:
    """The rank that (1 - rho) of what is read pays for: r (out + in) numbers."""
    rows, columns = weight_of(place.module).shape
    return min(rows, columns, int((1.0 - rho) * density * rows * columns / (rows + columns)))


class _Trial:
    """The model with low-rank parts as large as any share could ask for, whose shares can be changed at will."""

    def __init__(
        self, job: Job, plain: Mapping[str, Maker], weighted: Mapping[str, Maker], density: Mapping[str, float]
    ) -> None:
        self.job, self.plain, self.weighted, self.density = job, plain, weighted, density
        self.layers: dict[str, RankAware] = {}
        self.whole: dict[str, tuple[Tensor, Tensor]] = {}
        self.dense = outputs(job)

    def build(self) -> None:
        for place in self.job.places:
            most = rank_of(place, self.density[place.name], 0.0)
            self.whole[place.name] = factors(weight_of(place.module), most)
            layer = RankAware.of(place.module, *self.whole[place.name])
            replace_module(self.job.model, place.name, layer)
            select_inputs(layer, self.plain[place.name](0.0))
            self.layers[place.name] = layer

    def set(self, rhos: Genes) -> None:
        for place, rho in zip(self.job.places, rhos, strict=True):
            layer, rank = self.layers[place.name], rank_of(place, self.density[place.name], rho)
            layer.left, layer.right = self.whole[place.name]
            layer.cut(rank)
            reselect_inputs(layer, self._maker(place.name, rank)(self._zeros(place, rho)))

    def _zeros(self, place: Projection, rho: float) -> float:
        """The share of inputs that do not meet the columns."""
        return 1.0 - rho * self.density[place.name]

    def _maker(self, name: str, rank: int) -> Maker:
        return self.weighted[name] if rank else self.plain[name]

    def loss(self, rhos: Genes) -> float:
        """The distance from the dense model's output; infinite where the text is too short for a threshold."""
        for place, rho in zip(self.job.places, rhos, strict=True):
            zeros, maker = self._zeros(place, rho), self.plain[place.name]
            if 0.0 < zeros < maker.least or maker.most < zeros < 1.0:
                return math.inf
        self.set(rhos)
        return distance(outputs(self.job), self.dense)

    def finish(self, rhos: Genes, settle: int) -> None:
        """Sets the shares for good, with thresholds of the model that is sparse already."""
        self.set(rhos)
        for _ in range(settle):
            ranks = {p.name: self.layers[p.name].right.shape[0] for p in self.job.places}
            again = {n: replace(self._maker(n, rank), seen=Magnitudes()) for n, rank in ranks.items()}
            places = [replace(p, module=self.layers[p.name]) for p in self.job.places]
            watch(self.job, [(place, again[place.name]) for place in places])
            for place, rho in zip(places, rhos, strict=True):
                reselect_inputs(place.module, again[place.name](self._zeros(place, rho)))

    def placed(self, rhos: Genes) -> list[Placed]:
        found = []
        for place, rho in zip(self.job.places, rhos, strict=True):
            layer = self.layers[place.name]
            added = layer.left.numel() + layer.right.numel()
            found.append(placed(replace(place, module=layer), self._zeros(place, rho), added))
        return found
