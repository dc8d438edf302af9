"""Sparse spectral training: all singular values learn at every step, the singular vectors in turns of a few."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError, SparsityError
from rarefy.core.registry import method
from rarefy.core.slicing import weight_rows
from rarefy.training import optimizers
from rarefy.training.linears import Place, ordinary, places, require_rank, restore
from rarefy.training.spectral import SpectralLinear


def chances(s: Tensor) -> Tensor:
    """p_i = (1 / k + s_i / sum s) / 2: half of the turns go to large values, half to all alike. Shape (k,)."""
    s = s.detach().double()
    share = s / s.sum() if float(s.sum()) > 0 else torch.full_like(s, 1.0 / len(s))
    return (1.0 / len(s) + share) / 2.0


@dataclass(frozen=True)
class Turns:
    """rank: columns trained at a time; every: steps of a turn; turns: of a round, after which W is decomposed anew;
    warmup: steps over which the learning rate rises from 0 after that."""

    rank: int
    every: int
    turns: int
    warmup: int


class SpectralTrainer:
    """Hangs on the optimizer's steps: clamps s at 0, and changes the columns that are trained at the end of a turn.

    Save `state_dict()` beside the model's and the optimizer's.
    """

    def __init__(self, layers: dict[str, SpectralLinear], optimizer: torch.optim.Optimizer, turns: Turns, seed: int):
        self.layers, self.optimizer, self.turns = layers, optimizer, turns
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0
        self._rates: list[float] = []
        self._hooks = [optimizer.register_step_pre_hook(self._before), optimizer.register_step_post_hook(self._after)]
        self._choose()

    @property
    def trained(self) -> int:
        """Entries of the layers' weights that the optimizer keeps state for: rank * (m + n) + min(m, n) each."""
        return sum(layer.u.numel() + layer.v.numel() + layer.s.numel() for layer in self.layers.values())

    def step(self) -> None:
        """`optimizer.step()`; a loop may call that just as well."""
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def detach(self) -> None:
        """The optimizer's steps are ordinary ones from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "generator": self.generator.get_state(), "turns": asdict(self.turns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, the model's and the optimizer's state being loaded already."""
        if state.get("turns") != asdict(self.turns):
            raise ModelError(
                f"sst: the saved run has {state.get('turns')}, this one {asdict(self.turns)}; call sst with the "
                "arguments of the run that was saved"
            )
        self.steps = int(state["steps"])
        self.generator.set_state(state["generator"].clone())  # torch reads views with an offset wrongly

    def _before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        since = self.steps % (self.turns.every * self.turns.turns)
        again = self.steps >= self.turns.every * self.turns.turns  # the first round begins with the user's own schedule
        factor = min(1.0, (since + 1) / (self.turns.warmup + 1)) if again else 1.0
        self._rates = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    @torch.no_grad()
    def _after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        for group, rate in zip(optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        for layer in self.layers.values():
            layer.s.clamp_(min=0.0)
        self.steps += 1
        if self.steps % self.turns.every == 0:
            self._turn(self.steps % (self.turns.every * self.turns.turns) == 0)

    def _turn(self, last: bool) -> None:
        for layer in self.layers.values():
            layer.settle()
            if last:
                layer.orthogonalise()
                self.optimizer.state.pop(layer.s, None)
        self._choose()

    def _choose(self) -> None:
        for layer in self.layers.values():
            layer.train_columns(torch.multinomial(chances(layer.s), self.turns.rank, generator=self.generator))
            for columns in (layer.u, layer.v):
                self.optimizer.state.pop(columns, None)  # it belongs to the columns that wait now


@method("sst", role="study", source="Zhao et al. 2025, arXiv:2405.15481, section 4 and algorithm 1")
def sst(
    model: nn.Module,
    optimizer: Any,
    *,
    rank: int,
    every: int = 200,
    turns: int | None = None,
    warmup: int = 20,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> SpectralTrainer:
    """Stores every linear layer as U diag(s) V^T and trains all of s, but only `rank` columns of U and V at a time.

    The columns change every `every` steps, drawn by `chances`; those that wait have no gradient and no memory in the
    optimizer. After `turns` of them (min(m, n) / rank of the widest layer without it) W is decomposed anew, which makes
    the columns orthogonal again; the optimizer forgets all of the layer and its learning rate warms up. The layers'
    parameters replace the weights in the optimizer. W is dense, no entry of it is held at zero: so this is no method of
    `sparse_training`. `merge_sst` makes ordinary layers, also inside others (those of hyperbolic nets, which scale the
    product afterwards).
    """
    inner = optimizers.unwrap(optimizer)
    chosen = places(model, "sst", ignore)
    for place in chosen:
        _check(place, inner, rank)
    if every < 1 or warmup < 0 or (turns is not None and turns < 1):
        raise SparsityError(f"sst: every={every}, turns={turns}, warmup={warmup}; give at least 1, 1 and 0")
    layers = {}
    for place in chosen:
        linear = place.module
        layer = SpectralLinear(weight_rows(linear), linear._parameters["bias"], rank).train(linear.training)
        layer.plain = type(linear)
        optimizers.replace(inner, linear.get_parameter("weight"), [layer.s, layer.u, layer.v])
        place.put(layer)
        layers[place.name] = layer
    widest = max(len(layer.s) for layer in layers.values())
    return SpectralTrainer(layers, inner, Turns(rank, every, turns or math.ceil(widest / rank), warmup), seed)


def _check(place: Place, optimizer: torch.optim.Optimizer, rank: int) -> None:
    require_rank("sst", place.name, weight_rows(place.module), rank)
    if optimizers.group_of(optimizer, place.module.get_parameter("weight")) is None:
        raise ModelError(
            f"sst: the weight of {place.name} is in none of the optimizer's groups; make the optimizer of "
            f"model.parameters(), or leave the layer alone with ignore=[{place.name!r}]"
        )


def merge_sst(model: nn.Module) -> list[str]:
    """Makes ordinary linear layers, of the kind they were, of those that `sst` made; gives their names."""

    def back(module: nn.Module) -> nn.Module:
        assert isinstance(module, SpectralLinear)
        return ordinary(module.plain, module.dense_weight(), module.bias).train(module.training)

    return restore(model, SpectralLinear, back)
