"""What a training-free method is given, and the record of what it attached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from rarefy.calibration.batches import Batch, Run
from rarefy.calibration.block_trials import BlockTrial, block_trials, sample
from rarefy.selectors.attach import Masking
from rarefy.selectors.places import FeedForward, Projection, block_name


@dataclass(frozen=True, eq=False)
class Placed:
    """One selector on a model. asked: the share of zeros that it was made for; reads: the matrices whose columns (or
    rows and columns) a zero saves; added: numbers read in any case on top of them (a low-rank path, a rotation)."""

    name: str
    side: Literal["input", "hidden"]
    module: nn.Module
    selector: Masking
    asked: float
    reads: tuple[nn.Module, ...]
    added: int = 0


@dataclass(frozen=True, eq=False)
class Job:
    """A model to sparsify. places, layers: what is not ignored; tokens: how many the block trials look at.

    undo: what takes back what a method changes besides selectors, put there before it is changed; the last one is
    called first where anything fails.
    """

    model: nn.Module
    places: Sequence[Projection]
    layers: Sequence[FeedForward]
    sparsity: float
    batches: Sequence[Batch]
    run: Run
    tokens: int = 1024
    seed: int = 0
    undo: list[Callable[[], None]] = field(default_factory=list)

    @property
    def blocks(self) -> dict[int, nn.Module]:
        """{number: block}, the module that holds all places of that number."""
        return {place.block: self.model.get_submodule(block_name(place.name)) for place in self.places}

    def trials(self) -> Mapping[int, BlockTrial]:
        """Blocks with a sample of what they give now; taken anew at each call."""
        return block_trials(self.model, self.blocks, self.few, self.run)

    @cached_property
    def few(self) -> list[Batch]:
        """The leading batches and rows of about `tokens` tokens."""
        return sample(self.batches, self.tokens)


@runtime_checkable
class Activations(Protocol):
    """A method that attaches selectors."""

    def __call__(self, job: Job) -> list[Placed]: ...
