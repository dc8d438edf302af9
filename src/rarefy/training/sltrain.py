"""SLTrain: weights that are a low-rank pair plus a few entries at random places, and never stored as one matrix."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rarefy.core.density import density_of
from rarefy.core.errors import SparsityError
from rarefy.core.registry import method
from rarefy.core.slicing import weight_rows
from rarefy.core.topk import exact_count
from rarefy.training.linears import ordinary, places, require_rank, restore
from rarefy.training.options import require_least


def composed(b: Tensor, a: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
    """scale * B A + scatter(v, I), (out, in)."""
    weight = (b @ a).mul_(scale)
    weight.view(-1).index_add_(0, index, values.to(weight.dtype))  # bf16 under autocast
    return weight


class _Product(torch.autograd.Function):
    """y = x W^T; kept for the way back are x, B, A, v and I: W is formed anew there.

    With G = dy^T x: dB = scale * G A^T, dA = scale * B^T G, dv = G[I].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, b: Tensor, a: Tensor, values: Tensor, index: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, b, a, values, index)
        ctx.scale = scale
        return F.linear(x, composed(b, a, values, index, scale))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, b, a, values, index = ctx.saved_tensors
        scale, rows = ctx.scale, dy.reshape(-1, dy.shape[-1]).to(b.dtype)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (rows @ composed(b, a, values, index, scale)).to(x.dtype).view(x.shape)
        full = rows.t() @ x.reshape(-1, x.shape[-1]).to(b.dtype)
        return dx, scale * (full @ a.t()), scale * (b.t() @ full), full.view(-1)[index], None, None


class LowRankSparseLinear(nn.Module):
    """`x (scale * B A + S)^T + bias`: B (out, rank), A (rank, in), and S with `values` at the fixed places `index`.

    index: sorted positions in the row-major weight, drawn once; plain: the kind of layer that it stands for. B begins
    at zero, A as a linear layer's weight does, and the values uniformly within +- 1 / sqrt(in), so that the layer
    begins as a sparse one.
    """

    index: Tensor

    def __init__(
        self, in_features: int, out_features: int, rank: int, count: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scale = in_features, out_features, scale
        bound = 1.0 / math.sqrt(in_features)  # Kaiming-uniform with a = sqrt(5), as nn.Linear
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        self.a = nn.Parameter((2 * torch.rand(rank, in_features, generator=generator) - 1) * bound)
        self.values = nn.Parameter((2 * torch.rand(count, generator=generator) - 1) * bound)
        chosen = torch.randperm(in_features * out_features, generator=generator)[:count]
        self.register_buffer("index", chosen.sort().values)
        self.bias: nn.Parameter | None = None
        self.plain: type[nn.Module] = nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self.b, self.a, self.values, self.index, self.scale)
        return y if self.bias is None else y + self.bias

    def dense_weight(self) -> Tensor:
        """W, (out, in)."""
        return composed(self.b.detach(), self.a.detach(), self.values.detach(), self.index, self.scale)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, rank={self.b.shape[1]}, entries={self.values.numel()}"


@dataclass(frozen=True)
class SLTrainReport:
    """layers: names of those replaced; trained, dense: entries that they train now and would as dense matrices."""

    layers: tuple[str, ...]
    trained: int
    dense: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@method("sltrain", role="study", source="Han et al. 2024, arXiv:2406.02214, section 3 and algorithm 1")
def sltrain(
    model: nn.Module,
    *,
    rank: int,
    sparsity: float = 0.97,
    alpha: float | None = None,
    ignore: Sequence[str] = (),
    seed: int = 0,
) -> SLTrainReport:
    """Gives every linear layer freshly drawn weights W = (alpha / rank) B A + S, S sparse at fixed random places.

    For training from scratch; make the optimizer afterwards, of the parameters that are now there. sparsity: of S.
    alpha: rank / 4 without it (the ratio of the paper's runs). Leave the output layer dense with `ignore`. The zeros
    belong to S, not to W, and S has no dense parameter that a mask could lie on: so this is a change of the model and
    no method of `sparse_training`; the checkpoint is the model's and the optimizer's alone. `merge_sltrain` makes
    ordinary layers.
    Differs: 8-bit Adam and updates layer by layer, with which the paper saves more memory, are the optimizer's matter.
    """
    density = density_of(sparsity)
    if alpha is not None:
        require_least("alpha", alpha)
    chosen = places(model, "sltrain", ignore)
    weights = [weight_rows(place.module) for place in chosen]
    for place, weight in zip(chosen, weights, strict=True):
        _check(place.name, weight, rank, density)
    generator = torch.Generator().manual_seed(seed)
    scale = 0.25 if alpha is None else alpha / rank
    trained = 0
    for place, weight in zip(chosen, weights, strict=True):
        count, layer = exact_count(weight.numel(), density), place.module
        made = LowRankSparseLinear(weight.shape[1], weight.shape[0], rank, count, scale, generator)
        made = made.to(weight.dtype).train(layer.training)
        made.bias, made.plain = layer._parameters["bias"], type(layer)
        place.put(made)
        trained += made.a.numel() + made.b.numel() + count
    return SLTrainReport(tuple(p.name for p in chosen), trained, sum(weight.numel() for weight in weights))


def _check(name: str, weight: Tensor, rank: int, density: float) -> None:
    require_rank("sltrain", name, weight, rank)
    if exact_count(weight.numel(), density) == 0:
        raise SparsityError(
            f"sltrain: density {density:g} leaves S of {name} without an entry; ask for less sparsity, or leave the "
            f"layer alone with ignore=[{name!r}]"
        )


def merge_sltrain(model: nn.Module) -> list[str]:
    """Makes ordinary dense linear layers, of the kind they were, of those that `sltrain` made; gives their names."""

    def back(module: nn.Module) -> nn.Module:
        assert isinstance(module, LowRankSparseLinear)
        return ordinary(module.plain, module.dense_weight(), module.bias).train(module.training)

    return restore(model, LowRankSparseLinear, back)
