"""A term of the loss that makes activations sparse, for an ordinary training loop."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rarefy.core.calls import first_input
from rarefy.core.errors import DataError, SparsityError
from rarefy.core.protocols import Schedule
from rarefy.core.shapes import Float
from rarefy.selectors.readers import readers

Term = Callable[[Float[Tensor, "tokens width"]], Tensor]


@dataclass(frozen=True)
class L1:
    """Mean of |a| over tokens and neurons.

    Source: Georgiadis 2019, arXiv:1812.04056, eq. 2. Differs: a mean, not a sum, so a weight fits every width.
    """

    def __call__(self, hidden: Float[Tensor, "tokens width"]) -> Tensor:
        return hidden.abs().mean()


@dataclass(frozen=True)
class Hoyer:
    """Mean over tokens of (sum |a|)^2 / (width * sum a^2): in (0, 1], the density of a vector of equal entries.

    Scaling the activations down does not lower it, as it does L1. Source: Kurtz et al. 2020, ICML (PMLR 119), section
    3.1. Differs: a token, where they take a feature map; a token without any activation counts 0.
    """

    def __call__(self, hidden: Float[Tensor, "tokens width"]) -> Tensor:
        squares = hidden.square().sum(-1)
        alive = squares > 0
        share = hidden.abs().sum(-1).square() / torch.where(alive, squares, torch.ones_like(squares))
        return share.mean() / hidden.shape[-1]


@dataclass(frozen=True)
class SmoothCount:
    """Mean of tanh(beta |a|): the density, once beta |a| is large for everything that is not zero."""

    beta: float = 10.0

    def __post_init__(self) -> None:
        if not 0.0 < self.beta < math.inf:
            raise SparsityError(f"SmoothCount: beta {self.beta} is not positive and finite")

    def __call__(self, hidden: Float[Tensor, "tokens width"]) -> Tensor:
        return torch.tanh(self.beta * hidden.abs()).mean()


class ActivationPenalty:
    """weight(step) * mean over layers of term(hidden activation), of the last forward pass.

    The hidden activation is what the down projection of a feed-forward layer reads; `layers` names other modules
    whose inputs are meant. weight: a number, or a schedule over the steps that `step()` counts. A weight of 0 adds a
    constant 0, so training is bit for bit what it is without. Leave it by `close()`, or use it as a context:

        with ActivationPenalty(model, L1(), 0.01) as penalty:
            (task_loss(model, batch) + penalty.loss()).backward()
            optimizer.step(); penalty.step()
    """

    def __init__(
        self, model: nn.Module, term: Term, weight: float | Schedule, layers: Sequence[str] | None = None
    ) -> None:
        self.term, self._weight, self._step = term, weight, 0
        _ = self.weight  # refused here where its first value is none
        self._seen: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        for name, module in readers(model, layers, ("down",), linear=False).items():
            self._handles.append(module.register_forward_pre_hook(self._keep(name), with_kwargs=True))

    def _keep(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._seen[name] = first_input(args, kwargs)

        return keep

    @property
    def weight(self) -> float:
        """The weight at the present step. SparsityError where a schedule gives none that a penalty can have."""
        given = self._weight
        value = float(given if isinstance(given, int | float) else given(self._step))
        if not 0.0 <= value < math.inf:
            where = "" if isinstance(given, int | float) else f" at step {self._step} of {given!r}"
            raise SparsityError(
                f"ActivationPenalty: weight {value}{where} is no number from 0 up, below 0 activations would grow "
                "dense; give 0 for plain training"
            )
        return value

    def loss(self, real: Tensor | None = None) -> Tensor:
        """The term to add to the task's loss; real: (batch, tokens), nonzero where it is no padding, as an
        attention_mask. DataError before any forward pass, or where its tokens are not those of the last pass."""
        if len(self._seen) != len(self._handles):
            raise DataError(
                "ActivationPenalty.loss: not every layer has run; call the model first, and loss() once a pass"
            )
        seen = [_rows(hidden, real) for hidden in self._seen.values()]
        if self.weight == 0.0:
            return seen[0].new_zeros(())
        return self.weight * torch.stack([self.term(hidden) for hidden in seen]).mean()

    def density(self, above: float = 0.0) -> dict[str, float]:
        """{layer: share of the last pass's hidden activations with |a| > above}."""
        return {name: float((h.detach().abs() > above).float().mean()) for name, h in self._seen.items()}

    def step(self) -> None:
        """Counts an optimizer step."""
        self._step += 1

    def state_dict(self) -> dict[str, int]:
        """What a checkpoint keeps, so that a schedule goes on where it was."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on from a checkpoint's state. DataError for one that is none."""
        step = state.get("step")
        if not isinstance(step, int) or step < 0:
            raise DataError(f"ActivationPenalty.load_state_dict: step is {step!r}; give what state_dict() gave")
        self._step = step

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._seen.clear()

    def __enter__(self) -> "ActivationPenalty":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _rows(hidden: Tensor, real: Tensor | None) -> Tensor:
    flat = hidden.flatten(0, -2)
    if real is not None and real.numel() != len(flat):
        raise DataError(
            f"ActivationPenalty.loss: real has shape {tuple(real.shape)}, but a layer saw {len(flat)} tokens in the "
            "last pass; give the attention_mask (batch, tokens) of that pass"
        )
    return flat if real is None else flat[real.reshape(-1).bool().to(flat.device)]
