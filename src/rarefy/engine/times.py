"""Where the times of a layer come from: this process, the disk, a measurement now, or the cost model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from rarefy.engine.cache import Record, TimingCache
from rarefy.engine.cell import Cell, Types, Zeros, cell_of
from rarefy.engine.cost import DENSE, CostModel, cost_model
from rarefy.ops import candidates

_HOPELESS = 2.0  # times the model's best guess: kernels beyond are not timed
_WORTH_PRUNING = 4  # candidates from which on leaving some out saves time

Measure = Callable[[Tensor, Tensor | None, int, Sequence[str]], Mapping[str, float]]


@dataclass(frozen=True)
class Times:
    """Milliseconds by kernel name, "dense" always among them. origin: "measured", "cache" or "model";
    untimed: candidates that the model expects to lose clearly."""

    ms: Mapping[str, float]
    origin: str
    untimed: tuple[str, ...] = ()

    @property
    def left_out(self) -> str:
        """What a reason ends with."""
        return f"; {len(self.untimed)} kernels not timed, expected to lose" if self.untimed else ""


@dataclass
class TimeTable:
    """Times of layers, looked up before they are measured. measure: None asks the cost model only."""

    measure: Measure | None
    cache: TimingCache = field(default_factory=TimingCache)
    _seen: dict[str, Times] = field(default_factory=dict)

    def times(
        self, weight: Tensor, bias: Tensor | None, tokens: int, types: Types = Types(), *, zeros: Zeros | None = None
    ) -> Times:
        """Of the dense layer and of the candidates for a weight (out, in) at a token count. zeros: where they are known
        to lie."""
        cell = cell_of(weight, tokens, types, bias=bias is not None, zeros=zeros)
        if cell.key not in self._seen:
            names = candidates(weight, tokens, types.weights, types.activations)
            self._seen[cell.key] = self._known(cell, names) or self._new(cell, weight, bias, names)
        return self._seen[cell.key]

    def _known(self, cell: Cell, names: Sequence[str]) -> Times | None:
        """What the disk has, if it holds every candidate of today."""
        record = self.cache.get(cell.key)
        if record is None or DENSE not in record.ms or not record.tried >= set(names):
            return None
        ms = {name: record.ms[name] for name in (DENSE, *names) if name in record.ms}
        return Times(ms, "cache", tuple(name for name in names if name not in ms))

    def _new(self, cell: Cell, weight: Tensor, bias: Tensor | None, names: Sequence[str]) -> Times:
        if self.measure is None:
            return Times(self._expected(cell, names), "model")
        timed = self._promising(cell, names)
        ms = dict(self.measure(weight, bias, cell.tokens, timed))
        self.cache.put(cell.key, Record(ms, cell, frozenset(names)))
        return Times(ms, "measured", tuple(name for name in names if name not in ms))

    def _expected(self, cell: Cell, names: Sequence[str]) -> dict[str, float]:
        """The model's guesses; without one for the dense layer nothing can be compared with it, so nothing is."""
        return self.model.predict(cell, (DENSE, *names))

    def _promising(self, cell: Cell, names: Sequence[str]) -> list[str]:
        """The candidates that the model does not rule out; those that it knows nothing of are always timed."""
        if len(names) < _WORTH_PRUNING:
            return list(names)
        guesses = self.model.measured.predict(cell, names)
        limit = _HOPELESS * min(guesses.values(), default=0.0)
        return [name for name in names if guesses.get(name, 0.0) <= limit]

    @cached_property
    def model(self) -> CostModel:
        return cost_model(self.cache)
