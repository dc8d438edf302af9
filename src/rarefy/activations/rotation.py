"""Turning the basis of a model's residual stream block by block, so that selectors see it in better coordinates.

Root-mean-square norms commute with rotations once their gain is moved into the layers behind them, so a block can be
computed in any orthonormal basis Q: its readers become W Q, its writers Q^T W, and the dense function stays the same.
Between blocks of different bases stands the adapter Q_l^T Q_{l+1}, one product of width x width a token.

Source: Ashkboos et al. 2024, arXiv:2401.15024, section 3 (computational invariance); Liu et al. 2025, arXiv:2507.01299
(a basis a layer). Differs: embeddings and head stay as they are, tied or not: an adapter leads into the first basis and
one out of the last. Hidden states between the blocks (`output_hidden_states`) are in the turned bases.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError
from rarefy.core.grid import codes_of
from rarefy.selectors.matrix import weight_of
from rarefy.selectors.places import block_name, projections
from rarefy.selectors.turned import Adapter, Turn

_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")  # y = x / rms(x) * weight
MOST_ZEROS = 0.1


@dataclass(frozen=True, eq=False)
class TurnableBlock:
    """The parts of one pre-norm block. readers: q, k, v; inner_readers: gate, up."""

    module: nn.Module
    norm: nn.Module
    readers: tuple[nn.Module, ...]
    out: nn.Module
    inner_norm: nn.Module
    inner_readers: tuple[nn.Module, ...]
    down: nn.Module


@dataclass(frozen=True, eq=False)
class Turnable:
    """All blocks by number, and the norm behind the last one."""

    blocks: dict[int, TurnableBlock]
    final_norm: nn.Module


def turnable(model: nn.Module) -> Turnable:
    """The blocks of a model whose basis can be turned.

    Raises ModelError where it is no Llama, Mistral, Qwen 2 or 3, or where its weights are pruned or rounded (turning
    would fill the zeros), or turned already.
    """
    blocks: dict[int, TurnableBlock] = {}
    for place in projections(model):  # the ignored too: the residual stream runs through all
        if place.block not in blocks:
            blocks[place.block] = _block(model, model.get_submodule(block_name(place.name)))
            _require_plain(place.block, blocks[place.block])
    return Turnable(blocks, _final_norm(model, blocks[min(blocks)].module))


def _block(model: nn.Module, module: Any) -> TurnableBlock:
    try:
        attention, mlp = module.self_attn, module.mlp
        norm, inner = module.input_layernorm, module.post_attention_layernorm
        readers = (attention.q_proj, attention.k_proj, attention.v_proj)
        found = TurnableBlock(
            module, norm, readers, attention.o_proj, inner, (mlp.gate_proj, mlp.up_proj), mlp.down_proj
        )
    except AttributeError as error:
        raise _unknown(model, str(error)) from error
    if any(type(n).__name__ not in _NORMS for n in (norm, inner)):
        raise _unknown(model, f"its norm is a {type(norm).__name__}")
    return found


def _unknown(model: nn.Module, why: str) -> ModelError:
    return ModelError(
        f"{type(model).__name__}: its basis cannot be turned ({why}); that takes blocks and RMS norms of Llama, "
        "Mistral, Qwen 2 or Qwen 3. Use 'teal', or 'wina' without rotate"
    )


def _require_plain(number: int, block: TurnableBlock) -> None:
    if hasattr(block.module, "residual_adapter"):
        raise ModelError(f"block {number}: its basis has been turned already; start from the model as it was loaded")
    for layer in (*block.readers, block.out, *block.inner_readers, block.down):
        zeros = float((weight_of(layer) == 0).float().mean())
        if zeros > MOST_ZEROS or codes_of(layer) is not None:
            what = "rounded to integers" if codes_of(layer) is not None else f"{zeros:.0%} zeros"
            raise ModelError(
                f"block {number}: a weight is {what}, which turning the basis would undo; use 'teal' or 'wina' without "
                "rotate on pruned or quantised models, or turn first and prune after"
            )


def _final_norm(model: nn.Module, block: nn.Module) -> nn.Module:
    for module in model.modules():
        layers, norm = getattr(module, "layers", None), getattr(module, "norm", None)
        if not isinstance(layers, nn.ModuleList) or not isinstance(norm, nn.Module):
            continue
        if layers[0] is block and type(norm).__name__ in _NORMS:
            return norm
    raise _unknown(model, "no norm behind the last block")


def rotate(found: Turnable, bases: Mapping[int, Tensor], inner: Mapping[int, Tensor] | None = None) -> int:
    """Computes every block in its basis (width, width), orthonormal columns; gives how many numbers that adds.

    inner: bases of the feed-forward inputs, where they are to differ from the block's; each costs one more product of
    width x width. Computed in float64, written in the weights' own type; buffers `residual_adapter`, `rotation`.
    """
    before: Tensor | None = None
    added = 0
    with torch.no_grad():
        for number, block in found.blocks.items():
            q = bases[number].double()
            added += _adapt(block.module, q if before is None else before.T @ q, block.norm)
            _read(block.norm, block.readers, q)
            turned = None if inner is None else inner[number].double()
            _read(block.inner_norm, block.inner_readers, q if turned is None else turned)
            if turned is not None:
                added += _turn(block.inner_norm, q.T @ turned)
            for writer in (block.out, block.down):
                _write(writer, q)
            before = q
        assert before is not None
        added += _adapt(found.final_norm, before.T, found.final_norm)
    return added


def _read(norm: Any, readers: tuple[nn.Module, ...], basis: Tensor) -> None:
    """Moves the norm's gain and the basis into the layers that read from it: W <- W diag(gain) Q."""
    gain = norm.weight.double()
    for reader in readers:
        weight = weight_of(reader)
        weight.copy_((weight.double() * gain) @ basis)
    norm.weight.fill_(1.0)


def _write(writer: Any, basis: Tensor) -> None:
    """W <- Q^T W, and the bias with it."""
    weight = weight_of(writer)
    weight.copy_(basis.T @ weight.double())
    if writer.bias is not None:
        writer.bias.copy_(basis.T @ writer.bias.double())


def _adapt(module: nn.Module, matrix: Tensor, like: Any) -> int:
    module.register_buffer("residual_adapter", matrix.to(like.weight))
    module.register_forward_pre_hook(Adapter(), with_kwargs=True)
    return matrix.numel()


def _turn(norm: Any, matrix: Tensor) -> int:
    norm.register_buffer("rotation", matrix.to(norm.weight))
    norm.register_forward_hook(Turn())
    return matrix.numel()


def turned_modules(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(module, buffer) of all rotations of a model."""
    for name, module in model.named_modules():
        for buffer in ("residual_adapter", "rotation"):
            if buffer in module._buffers:
                yield name, buffer


def hang_rotation(model: nn.Module, name: str, buffer: str) -> None:
    """Gives a fresh model the place for a rotation that a saved state will fill."""
    module: Any = model.get_submodule(name)
    weight = module.weight if isinstance(getattr(module, "weight", None), Tensor) else module.input_layernorm.weight
    width = weight.shape[0]
    module.register_buffer(buffer, torch.eye(width, dtype=weight.dtype, device=weight.device))
    if buffer == "rotation":
        module.register_forward_hook(Turn())
    else:
        module.register_forward_pre_hook(Adapter(), with_kwargs=True)
