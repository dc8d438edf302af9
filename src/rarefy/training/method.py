"""What a sparse-training method is made of: four parts, each a small frozen record.

Start chooses the first masks, Topology changes them, Transform says what the forward pass and the optimizer see of a
weight, Penalty adds to the loss. A method is one of each; a part serves many methods.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from rarefy.allocations.uniform import Uniform
from rarefy.core.protocols import Allocation, Pattern, Transform
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.masked import Masked

if TYPE_CHECKING:
    from rarefy.training.clock import Clock
    from rarefy.training.run import Run


@runtime_checkable
class Start(Protocol):
    """Chooses the masks with which training begins: sets `state.mask` of every weight of the run."""

    @abstractmethod
    def __call__(self, run: "Run") -> None: ...


@runtime_checkable
class Topology(Protocol):
    """Changes the masks while training goes on.

    needs_end: whether it has to know `total_steps`; `before` is called with the step's dense gradients at hand, ahead
    of the optimizer, and says whether the optimizer's step is to be left out; `after` is called when the weights are
    new.
    """

    @property
    @abstractmethod
    def needs_end(self) -> bool: ...
    @abstractmethod
    def before(self, run: "Run") -> bool: ...
    @abstractmethod
    def after(self, run: "Run") -> None: ...


@runtime_checkable
class Opens(Protocol):
    """A topology that leaves packed weights alone between its changes, and opens one at a time (`Run.opened`) then.

    wants_gradient: whether the coming step's `before` looks at dense gradients.
    """

    @abstractmethod
    def wants_gradient(self, run: "Run") -> bool: ...


@runtime_checkable
class StaysDense(Protocol):
    """A topology for which only the kept values are not enough, and why: "the method ..."."""

    @property
    @abstractmethod
    def why_dense(self) -> str: ...


@runtime_checkable
class Exchanges(Protocol):
    """A topology that leaves the first masks as they are where the clock of its exchanges never ticks."""

    @property
    @abstractmethod
    def exchanges(self) -> "Clock": ...


@runtime_checkable
class Chooses(Protocol):
    """A topology that cannot keep to every pattern: says why not to this one, None where it can."""

    @abstractmethod
    def why_not(self, pattern: Pattern) -> str | None: ...


@runtime_checkable
class Penalty(Protocol):
    """A term of the loss in all trained weights together; its gradient is added before the optimizer's step."""

    @abstractmethod
    def __call__(self, weights: Sequence[Tensor], run: "Run") -> Tensor | None:
        """weights: leaves `(out, in)` in the order of `run.states`. Gives a scalar, or None where there is none now."""


@runtime_checkable
class Preparation(Protocol):
    """Changes the modules of the model before training (new layers, a dense teacher, ...)."""

    @abstractmethod
    def __call__(self, run: "Run") -> None: ...


@dataclass(frozen=True)
class SparseMethod:
    """A sparse-training method. pattern, allocation: what it takes unless the user asks for others.

    prepare: changes modules first, where the method is a layer of its own kind; exact: whether the last masks keep
    exactly what was asked for (not where the method itself finds how much it needs); chosen: what a one-shot method
    that chose the masks was asked for, so that a state of other masks is refused.
    """

    start: Start
    topology: Topology
    transform: Transform = field(default_factory=Masked)
    penalty: Penalty | None = None
    pattern: Pattern = field(default_factory=Layerwise)
    allocation: Allocation = field(default_factory=Uniform)
    prepare: Preparation | None = None
    embeddings: bool = False
    exact: bool = True
    chosen: str = ""
