"""The eight protocols. Kernels know the two nouns only; methods know these only.

Larger score = keep. Masks are bool, True = keep. Density = 1 - sparsity. Steps count from 0.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rarefy.core.evidence import Evidence, Need
from rarefy.core.grid import Grid
from rarefy.core.selection import Selection
from rarefy.core.shapes import Float, Mask, RowMask, Scores, Weight
from rarefy.core.site import Site
from rarefy.core.sparse import SparseTensor


@runtime_checkable
class Pattern(Protocol):
    """Which supports are allowed."""

    @property
    @abstractmethod
    def granularity(self) -> tuple[int, int]:
        """The smallest tile (rows, columns) over which the pattern decides; sites must divide by it."""

    @property
    @abstractmethod
    def span(self) -> int | None:
        """Columns within which the choice is closed (M of N:M); None if a whole row or layer competes."""

    @abstractmethod
    def select(self, scores: Scores, density: float) -> RowMask: ...
    @abstractmethod
    def allows(self, mask: RowMask) -> bool: ...
    @abstractmethod
    def count(self, rows: int, n: int, density: float) -> int:
        """Exactly how many entries `select` keeps."""


@runtime_checkable
class Score(Protocol):
    """How much each entry matters."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]: ...
    @abstractmethod
    def __call__(self, weight: Weight, evidence: Evidence) -> Weight: ...


@runtime_checkable
class Allocation(Protocol):
    """How a global budget is spread over the sites: name -> density."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]: ...
    @abstractmethod
    def __call__(self, sites: Sequence[Site], density: float, evidence: Mapping[str, Evidence]) -> dict[str, float]: ...


@runtime_checkable
class Search(Protocol):
    """Spreads a budget by trying: an allocation that looks at the pruned model, not at evidence."""

    @abstractmethod
    def search(
        self, sizes: Mapping[str, int], density: float, loss_of: Callable[[Mapping[str, float]], float], seed: int
    ) -> dict[str, float]:
        """The best densities found; `loss_of` prunes the model to some densities, looks, and puts it back."""


@dataclass(frozen=True)
class Solution:
    """What a solver made of one matrix. `result` holds what it has to say (damping, iterations, error).

    shift: what has to be added to the layer's bias, (out,), where the solver repairs that too.
    grid: what the weight was rounded to, where the solver rounds; a kept weight may then be zero.
    """

    weight: Weight
    mask: Mask
    result: Mapping[str, Any] = field(default_factory=dict)
    shift: Tensor | None = None
    grid: Grid | None = None


@runtime_checkable
class Solver(Protocol):
    """Makes one matrix sparse and repairs what is kept."""

    @property
    @abstractmethod
    def needs(self) -> frozenset[Need]: ...
    @abstractmethod
    def __call__(self, weight: Weight, pattern: Pattern, density: float, evidence: Evidence) -> Solution: ...


@runtime_checkable
class Schedule(Protocol):
    """A value over time: density, drop fraction, temperature."""

    @abstractmethod
    def __call__(self, step: int) -> float: ...


@runtime_checkable
class Transform(Protocol):
    """What happens to a weight around an optimizer step; the state is explicit.

    wants_dense_grad: whether gradients of dropped entries reach the optimizer; wants_master: whether a dense weight is
    kept behind what the forward pass sees; hides_dropped: whether dropped entries are zero in that view. `state` is the
    trainer's record of the weight (mask, density, extra tensors, the step); a transform may write into `state.extra`.
    """

    @property
    @abstractmethod
    def wants_dense_grad(self) -> bool: ...
    @property
    @abstractmethod
    def wants_master(self) -> bool: ...
    @property
    @abstractmethod
    def hides_dropped(self) -> bool: ...
    @abstractmethod
    def init(self, state: Any) -> None: ...
    @abstractmethod
    def view(self, weight: Weight, state: Any) -> Weight:
        """What the forward pass sees."""

    @abstractmethod
    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        """The gradient with respect to the weight, from that with respect to its view."""

    @abstractmethod
    def on_step(self, weight: Weight, state: Any) -> Weight:
        """The weight after the optimizer's step, corrected."""


@runtime_checkable
class Selector(Protocol):
    """Picks a few of many, per token."""

    @abstractmethod
    def __call__(self, x: Float[Tensor, "tokens width"], context: Any) -> Selection: ...


@runtime_checkable
class Format(Protocol):
    """Stores a sparse matrix; `unpack(pack(t))` is `t` exactly."""

    @abstractmethod
    def fits(self, mask: Mask) -> str | None:
        """None if the format can hold this support, else the reason why not."""

    @abstractmethod
    def pack(self, tensor: SparseTensor) -> dict[str, Tensor]: ...
    @abstractmethod
    def unpack(self, parts: Mapping[str, Tensor]) -> SparseTensor: ...
