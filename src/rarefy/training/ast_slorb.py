"""AST: masks that settle because what is pruned decays more and more, with an adapter for what was lost."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rarefy.core.errors import SparsityError
from rarefy.core.protocols import Pattern
from rarefy.core.registry import method
from rarefy.core.shapes import Weight
from rarefy.patterns.nm import NM
from rarefy.training import optimizers
from rarefy.training.loaded import TakesAsIs
from rarefy.training.method import SparseMethod
from rarefy.training.prune_once_for_all import distilled
from rarefy.training.refresh import Refresh
from rarefy.training.run import Run
from rarefy.training.slorb import SLoRBLinear, pruned_means
from rarefy.training.starts import MagnitudeStart


@dataclass(frozen=True)
class AnnealedDecay(TakesAsIs):
    """Straight-through, with decay * min(1, step / (ramp * total_steps)) * (1 - mask) * w added to the gradient.

    Source: Huang et al. 2025 (AST), arXiv:2407.20584, section 4.1 (annealing SR-STE).
    """

    decay: float
    ramp: float
    wants_dense_grad: ClassVar[bool] = True
    hides_dropped: ClassVar[bool] = True
    wants_master: ClassVar[bool] = True

    def init(self, state: Any) -> None:
        """Nothing to remember."""

    def strength(self, step: int, total: int) -> float:
        return self.decay * min(1.0, step / max(1.0, self.ramp * total))

    def view(self, weight: Weight, state: Any) -> Weight:
        return weight * state.mask

    def on_grad(self, grad: Weight, weight: Weight, state: Any) -> Weight:
        return grad + self.strength(state.step, state.total_steps) * (weight * ~state.mask)

    def on_step(self, weight: Weight, state: Any) -> Weight:
        return weight


@dataclass(frozen=True)
class AnnealedRefresh(Refresh):
    """`Refresh`, of a method whose decay ends with the training."""

    needs_end: ClassVar[bool] = True


@dataclass(frozen=True)
class AddAdapters:
    """Gives every plain linear layer of the run an adapter, which the optimizer trains with the weight's settings.

    A warning names the weights that get none: convolutions, recurrent and attention weights, GPT-2's Conv1D.
    """

    block: int

    def __call__(self, run: Run) -> None:
        without = [s.name for s in run.states if not any(type(m) in (nn.Linear, SLoRBLinear) for m in s.weight.modules)]
        if without:
            names = ", ".join(without[:5]) + (f" and {len(without) - 5} more" if len(without) > 5 else "")
            warnings.warn(
                f"ast-slorb: adapters are for nn.Linear only, so {names} get none; give adapter=False for none at all, "
                "or accept it",
                stacklevel=2,
            )
        for state in run.states:
            for module in state.weight.modules:
                if type(module) is nn.Linear:
                    layer = SLoRBLinear.adopt(module, self.block)
                    group = optimizers.group_of(run.optimizer, layer.weight)
                    assert group is not None, "the trainer has checked that"
                    group["params"].append(layer.slorb)


@dataclass(frozen=True)
class AdapterStart:
    """The largest weights, and adapters that give back the means of the others."""

    def __call__(self, run: Run) -> None:
        MagnitudeStart()(run)
        for state in run.states:
            for module in state.weight.modules:
                if isinstance(module, SLoRBLinear):
                    module.slorb.copy_(pruned_means(state.value(), state.mask, module.block))


@method("ast-slorb", source="Huang et al. 2025 (AST), arXiv:2407.20584, section 4", protocols=("transform",))
def ast_slorb(
    *,
    pattern: Pattern = NM(2, 4),
    every: int = 10,
    decay: float = 6e-5,
    ramp: float = 0.5,
    adapter: bool = True,
    block: int = 64,
) -> SparseMethod:
    """Retrains a dense model to N:M: masks follow the dense weights, whose pruned entries decay more and more.

    every: steps between two looks at the masks; decay: of what is pruned, rising linearly until the share `ramp` of
    total_steps; adapter: whether linear layers get SLoRB, `block` inputs to a block. Add `distillation` to the loss.
    Make the trainer before a checkpoint is loaded: the adapters are parameters of the model.
    Differs: masks by magnitude only (the paper also tries Wanda's score); the decay goes through the optimizer like a
    gradient, the paper's Adam keeps it out of the first moment.
    """
    if decay < 0.0 or not 0.0 < ramp <= 1.0:
        raise SparsityError(f"ast-slorb: decay={decay}, ramp={ramp}; give decay >= 0 and a share 0 < ramp <= 1")
    if block < 1:
        raise SparsityError(f"ast-slorb: block {block} is not a number of inputs; give at least 1")
    prepare = AddAdapters(block) if adapter else None
    start = AdapterStart() if adapter else MagnitudeStart()
    transform = AnnealedDecay(decay, ramp)
    return SparseMethod(start, AnnealedRefresh(every), transform, pattern=pattern, prepare=prepare)


def distillation(
    model: nn.Module, *, temperature: float = 2.0, share: float = 1.0
) -> Callable[[Tensor, Tensor, Any], Tensor]:
    """A frozen copy of the model as it is now (make it before the trainer), as a loss.

    Gives `add(loss, logits, x)`: loss + share * T^2 KL(teacher(x) || student), the mean over all positions.
    """
    teacher = copy.deepcopy(model).eval().requires_grad_(False)

    def add(loss: Tensor, logits: Tensor, x: Any) -> Tensor:
        with torch.no_grad():
            wanted = teacher(x)
        return loss + share * distilled(logits, wanted, temperature)

    return add
