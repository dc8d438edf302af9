"""Window-attention transformers that compute only the windows with the largest features."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.activations.images.swin_windows import kept_windows, stages_of, window_norms
from rarefy.core.density import density_of
from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.timing import interleaved
from rarefy.core.topk import exact_count

RATIOS = tuple(i / 10 for i in range(9))  # the authors' steps: 0 to 80 %
Score = Callable[[Tensor, int, int], Tensor]


@method(
    "sparsevit",
    role="selector",
    protocols=("score", "allocation", "layer", "schedule"),
    source="Chen et al. 2023, arXiv:2303.17605, section 3, and the authors' code",
)
@dataclass(frozen=True)
class SparseViT:
    """Keeps the windows with the largest L2 norm of their features; the others pass through each block unchanged.

    ratio: the share of windows left out, the same in all blocks until `WindowPruning.ratios` is set. A stage scores its
    windows once, at its first block that leaves any out; shifted blocks score theirs from the same features.
    Differs: the norm is of the features themselves, the code's of their mean size over channels; round(n (1 - r))
    windows stay, not the floor.
    """

    ratio: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        density_of(self.ratio)

    def attach(self, model: nn.Module, *, score: Score = window_norms) -> "WindowPruning":
        """Hangs the choice on the Swin blocks of a transformers model; nothing in the state dict changes.

        score: (images (n, height, width, channels), window, shift) -> (n, windows).
        """
        return WindowPruning(self, model, score)


@dataclass
class _Shared:
    """What the blocks of a stage share in one pass: the features that are scored."""

    features: Tensor | None = None


class WindowPruning:
    """The blocks of a model with a ratio each. `ratios` may be set at any time; `detach()` gives the dense model back.

    kept: {block number: the windows computed last, (images, k)}, for looking at.
    """

    def __init__(self, method: SparseViT, model: nn.Module, score: Score) -> None:
        self.model, self.score = model, score
        self.stages = stages_of(model)
        self.blocks = [block for stage in self.stages for block in stage]
        if any("forward" in vars(block) for block in self.blocks):
            raise ModelError(f"sparsevit: {type(model).__name__} has it already; call detach() on the first")
        self.kept: dict[int, Tensor] = {}
        self._random = random.Random(method.seed)
        self.ratios = [method.ratio] * len(self.blocks)
        number = 0
        for stage in self.stages:
            shared = _Shared()
            for place, block in enumerate(stage):
                block.forward = _Forward(self, block, number, place, shared)
                number += 1

    @property
    def ratios(self) -> list[float]:
        """The share of windows left out, block by block."""
        return list(self._ratios)

    @ratios.setter
    def ratios(self, ratios: Sequence[float]) -> None:
        if len(ratios) != len(self.blocks):
            raise SparsityError(f"ratios: {len(ratios)} for {len(self.blocks)} blocks; give one a block")
        for ratio in ratios:
            density_of(ratio)
        self._ratios = [float(ratio) for ratio in ratios]

    def randomise(self) -> list[float]:
        """Draws ratios for one step of sparsity-aware adaptation, rising within each stage; gives them."""
        self.ratios = [r for stage in self.stages for r in sorted(self._random.choice(RATIOS) for _ in stage)]
        return self.ratios

    def detach(self) -> None:
        """Gives the dense blocks back."""
        for block in self.blocks:
            vars(block).pop("forward", None)

    def latency(self, *inputs: Any, rounds: int = 5) -> Callable[[Sequence[float]], float]:
        """A function from ratios to measured milliseconds of the model on these inputs (the median of some rounds)."""

        def measured(ratios: Sequence[float]) -> float:
            before, self.ratios = self.ratios, list(ratios)
            try:
                with torch.no_grad():
                    return interleaved({"model": lambda: self.model(*inputs)}, rounds=rounds, warmup=1).median("model")
            finally:
                self.ratios = before

        return measured

    def choose(self, number: int, block: Any, images: Tensor) -> Tensor:
        """The windows that a block computes, (images, k), the largest scores first, from its stage's features."""
        scores = self.score(images, int(block.window_size), int(block.shift_size))
        count = exact_count(scores.shape[1], 1.0 - self._ratios[number])
        self.kept[number] = scores.argsort(dim=1, descending=True, stable=True)[:, :count]
        return self.kept[number]


class _Forward:
    """Stands in a block's place for its `forward`; an object, so that a deep copy of the model holds its own blocks."""

    def __init__(self, pruning: WindowPruning, block: Any, number: int, place: int, shared: _Shared) -> None:
        self.pruning, self.block, self.number, self.place, self.shared = pruning, block, number, place, shared

    def __call__(self, hidden_states: Tensor, input_dimensions: tuple[int, int], *args: Any, **kwargs: Any) -> Any:
        block, shared = self.block, self.shared
        if self.place == 0:
            shared.features = None
        if self.pruning.ratios[self.number] == 0.0:
            return type(block).forward(block, hidden_states, input_dimensions, *args, **kwargs)
        if not (args[0] if args else kwargs.get("always_partition", False)):
            block.set_shift_and_window_size(input_dimensions)
        height, width = (int(n) for n in input_dimensions)
        if shared.features is None:
            shared.features = hidden_states.detach()
        kept = self.pruning.choose(self.number, block, shared.features.unflatten(1, (height, width)))
        return kept_windows(block, hidden_states, (height, width), kept), None
