"""How linear the blocks of a model are, and what it costs to put a matrix in the place of one."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.calibration.batches import as_batches, call_model, inference, token_mask
from rarefy.calibration.chain import hidden, probe
from rarefy.calibration.layer_inputs import rows
from rarefy.core.calls import first_input
from rarefy.core.errors import DataError, ModelError
from rarefy.core.registry import method
from rarefy.core.site import find_sites


@dataclass(frozen=True)
class Linearity:
    """Scores in [0, 1], 1 = linear: `whole` of the block with its residual, `own` of what the block adds to it.

    weight (width, width), bias (width,): the least-squares map x @ weight + bias of the whole block.
    """

    whole: float
    own: float
    weight: Tensor
    bias: Tensor


def linearity(x: Tensor, y: Tensor) -> float:
    """1 - min_A |X A - Y|_F^2 for the centred tokens X, Y (tokens, width), each scaled to unit Frobenius norm.

    Invariant to scale, shift and rotation of either. A y that does not vary counts 1. Source: Razzhigaev et al. 2024,
    arXiv:2405.12250, eq. 1.
    """
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    size = float(y.norm())
    if size == 0.0:
        return 1.0
    basis = _basis(x)
    return min(1.0, float((basis.T @ (x.T @ y) / size).square().sum()))


def best_map(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(weight, bias) with the least squares of x @ weight + bias - y, the smallest such weight, in float64."""
    x, y = x.double(), y.double()
    middle, target = x.mean(0), y.mean(0)
    basis = _basis(x - middle)
    weight = basis @ (basis.T @ ((x - middle).T @ (y - target)))
    return weight, target - middle @ weight


def _basis(x: Tensor) -> Tensor:
    """(width, rank) B with (X B)^T (X B) = I, directions left out in which X varies less than a millionth."""
    values, vectors = torch.linalg.eigh(x.T @ x)
    alive = values > values[-1] * 1e-12
    return vectors[:, alive] / values[alive].sqrt()


class LinearBlock(nn.Module):
    """x @ weight + bias in the place of a block; takes and drops the other arguments of the block.

    number: that of the block's own keys and values in a cache of transformers, or None. The first one's length says
    how many tokens came before, so it grows by keys of one zero a token.
    """

    def __init__(self, weight: Tensor, bias: Tensor, parts: int, number: int | None = None) -> None:
        super().__init__()
        self.weight, self.bias, self.parts, self.number = nn.Parameter(weight), nn.Parameter(bias), parts, number

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        cache = next((part for part in (*args, *kwargs.values()) if hasattr(part, "get_seq_length")), None)
        if cache is not None and self.number is not None:
            empty = x.new_zeros(x.shape[0], 1, x.shape[1], 1)
            cache.update(empty, empty, self.number)
        y = x @ self.weight + self.bias
        return (y, *([None] * (self.parts - 1))) if self.parts else y


@method("secretly-linear", role="study", source="Razzhigaev et al. 2024, arXiv:2405.12250, sections 3 to 5")
def secretly_linear(model: nn.Module, data: Iterable[Any]) -> dict[str, Linearity]:
    """{block: its linearity} for the chain of blocks of a model, over the tokens of `data` that are no padding.

    Needs more tokens than the width, else every map fits (DataError). ModelError if the model has no chain of blocks.
    """
    batches = as_batches(data, method="secretly_linear", needed=True)
    found = {}
    for name, (x, y) in _seen(model, batches).items():
        if len(x) <= 2 * x.shape[1]:
            raise DataError(
                f"secretly_linear: {len(x)} tokens for a width of {x.shape[1]}; a map of that size fits them anyhow: "
                f"give more than {2 * x.shape[1]} tokens"
            )
        weight, bias = best_map(x, y)
        own = y - x if x.shape == y.shape else y
        found[name] = Linearity(linearity(x, y), linearity(x, own), weight.to(x.dtype), bias.to(x.dtype))
    return found


def replace_block(model: nn.Module, name: str, fit: Linearity | None, data: Iterable[Any]) -> None:
    """Puts the fitted map in the place of a block, in place; None: the block is left out and passes its input on."""
    batches = as_batches(data, method="replace_block", needed=True)
    blocks, parts = _blocks(model, batches[0])
    if name not in blocks:
        raise ModelError(f"replace_block: {name!r} is no block of the chain; there are {', '.join(blocks)}")
    weight, bias = _passed_on(model, name, batches[0]) if fit is None else (fit.weight, fit.bias)
    like = next(blocks[name].parameters())
    model.set_submodule(
        name, LinearBlock(weight.to(like, copy=True), bias.to(like, copy=True), parts, _number(blocks[name]))
    )


def _number(block: nn.Module) -> int | None:
    """Which keys and values of a cache are the block's, or None."""
    if isinstance(block, LinearBlock):
        return block.number
    found = (getattr(part, "layer_idx", None) for part in block.modules())
    return next((number for number in found if isinstance(number, int)), None)


def similarity_penalty(states: Sequence[Tensor], real: Tensor | None = None) -> Tensor:
    """Sum over layers of the mean of 1 - cos(h_l, h_(l-1)): added to the loss of pre-training, it makes blocks that
    contribute little but not linearly.

    states: hidden states (batch, tokens, width), the embeddings first; real: (batch, tokens), nonzero where
    it is no padding. Source: Razzhigaev et al. 2024, arXiv:2405.12250, section 5.
    """
    if len(states) < 2:
        raise DataError(f"similarity_penalty: {len(states)} hidden states; give those before and after each block")
    if real is not None and real.shape != states[0].shape[:-1]:
        raise DataError(
            f"similarity_penalty: real has shape {tuple(real.shape)}, the states {tuple(states[0].shape)}; give one "
            "mark a token, as an attention_mask"
        )
    flat = [rows(state, real) for state in states]
    return torch.stack(
        [(1 - F.cosine_similarity(a, b, dim=-1)).mean() for a, b in zip(flat[1:], flat, strict=False)]
    ).sum()


def _blocks(model: nn.Module, batch: Any) -> tuple[dict[str, nn.Module], int]:
    with inference(model):
        found = probe(model, find_sites(model)[0], batch, call_model)
    if not found.chain:
        raise ModelError(f"{type(model).__name__}: has no chain of blocks, each fed by the one before")
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(block)]: block for block in found.chain}, found.parts


def _passed_on(model: nn.Module, name: str, batch: Any) -> tuple[Tensor, Tensor]:
    x, y = _seen(model, [batch])[name]
    if x.shape != y.shape:
        raise ModelError(
            f"replace_block: {name!r} turns {x.shape[1]} features into {y.shape[1]}; it cannot be left out"
        )
    return torch.eye(x.shape[1]), torch.zeros(x.shape[1])


def _seen(model: nn.Module, batches: Sequence[Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """{block: (its inputs, its outputs)}, each (tokens, width)."""
    blocks, _ = _blocks(model, batches[0])
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in blocks}
    real: list[Tensor | None] = [None]

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x = first_input(args, kwargs)
            seen[name].append((rows(x, real[0]), rows(hidden(output), real[0])))

        return hook

    with ExitStack() as stack, inference(model):
        for name, block in blocks.items():
            stack.callback(block.register_forward_hook(keep(name), with_kwargs=True).remove)
        for i, batch in enumerate(batches):
            real[0] = token_mask(batch)
            call_model(model, batch, i)
    return {n: (torch.cat([x for x, _ in part]), torch.cat([y for _, y in part])) for n, part in seen.items()}
