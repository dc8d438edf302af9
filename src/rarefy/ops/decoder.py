"""A decoder-only language model as one native call: all layers of some new tokens, over preallocated buffers.

Small records describe the model; `NativeDecoder` hands their addresses to the native module and keeps them alive.
Keys are cached in panels of 16 (`empty_cache`), so that attention over the cache reads one feature of 16 keys at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import ShapeError
from rarefy.ops import native
from rarefy.ops.decoder_checks import PANEL as PANEL
from rarefy.ops.decoder_checks import Seen, require_options, require_step, require_table
from rarefy.ops.decoder_checks import Sizes as Sizes
from rarefy.ops.packed import ACTIVATIONS, PackedWeight
from rarefy.ops.select import Select as Select
from rarefy.ops.select import select_args


@dataclass(frozen=True, eq=False)
class Norm:
    """RMS norm, or layer norm (`rms` False) with an optional bias; weight (features) float32."""

    rms: bool
    weight: Tensor
    bias: Tensor | None
    eps: float


@dataclass(frozen=True, eq=False)
class Linear:
    """act(x W^T + bias). choices: the packed weight up to a token count, ascending; the last serves all beyond.
    select: which inputs it looks at, None: all. rest: two layers for the inputs that it does not look at."""

    choices: tuple[tuple[int, PackedWeight], ...]
    bias: Tensor | None
    activation: str = "none"
    select: Select | None = None
    rest: "tuple[Linear, Linear] | None" = None


@dataclass(frozen=True, eq=False)
class Foresight:
    """A choice made where a norm gives x and used later: the `keep` targets with the largest logits net(x), each of
    `spread` features, into mask `slot` (0 to 3). net: one layer or two; full: as `selectors.likeliest` has it."""

    net: tuple[Linear, ...]
    keep: int
    spread: int
    slot: int
    full: float | None = None


Stacked = Linear | tuple[Linear, ...]
"""Layers of one input whose rows follow each other; several where they do not look at the same of it."""


@dataclass(frozen=True, eq=False)
class Block:
    """One layer. qkv: rows of all query, then key, then value heads; up: with `gated` the gate's rows, then up's.

    hidden: which neurons are used behind the activation, None: all. With `gated` up is then two layers, the gate with
    its activation and up's own. turn, mlp_turn: (width, width), what the residual stream is multiplied by before the
    block, and what the second norm gives is. attention_foresights, mlp_foresights: what is chosen from what the first
    and the second norm give, for this block or a later one.
    """

    attention_norm: Norm
    qkv: Stacked
    q_norm: Norm | None
    k_norm: Norm | None
    scale: float
    out: Linear
    mlp_norm: Norm
    up: Stacked
    gated: bool
    activation: str  # of the gate
    down: Linear
    hidden: Select | None = None
    turn: Linear | None = None
    mlp_turn: Linear | None = None
    attention_foresights: tuple[Foresight, ...] = ()
    mlp_foresights: tuple[Foresight, ...] = ()


def capacity_for(tokens: int) -> int:
    """The capacity that holds so many tokens: whole panels."""
    return max(1, -(-tokens // PANEL)) * PANEL


def empty_cache(layers: int, batch: int, sizes: Sizes, capacity: int) -> tuple[Tensor, Tensor]:
    """Keys (layers, batch, kv_heads, panels, depth, 16) and values (layers, batch, kv_heads, capacity, depth)."""
    keys = torch.empty(layers, batch, sizes.kv_heads, capacity // PANEL, sizes.depth, PANEL)
    return keys, torch.empty(layers, batch, sizes.kv_heads, capacity, sizes.depth)


def _norm(norm: Norm | None) -> tuple[bool, int, int, float]:
    if norm is None:
        return True, 0, 0, 0.0
    return norm.rms, norm.weight.data_ptr(), 0 if norm.bias is None else norm.bias.data_ptr(), norm.eps


def _choices(linear: Linear) -> list[tuple[int, Any]]:
    return [(tokens, packed.layout) for tokens, packed in linear.choices]


def _linear(linear: Linear) -> tuple[Any, ...]:
    bias = 0 if linear.bias is None else linear.bias.data_ptr()
    rest = [_choices(one) for one in linear.rest or ()]
    return _choices(linear), bias, ACTIVATIONS.index(linear.activation), select_args(linear.select), rest


def _stacked(linears: Stacked | None) -> list[tuple[Any, ...]]:
    """None: there is no layer."""
    every = linears if isinstance(linears, tuple) else () if linears is None else (linears,)
    return [_linear(linear) for linear in every]


def _foresights(foresights: Sequence[Foresight]) -> list[tuple[Any, ...]]:
    return [(_stacked(one.net), one.keep, one.spread, one.slot, one.full or 0.0) for one in foresights]


class NativeDecoder:
    """The native model. Everything it points to is held here; calls from several threads need a workspace each.

    embedding (vocabulary, width) and positions (rows, width) or None are float32 and contiguous, as every norm and
    bias; a position p adds row p + position_offset. turn: (width, width), by which the last block's
    result is multiplied.
    """

    def __init__(
        self,
        sizes: Sizes,
        embedding: Tensor,
        positions: Tensor | None,
        position_offset: int,
        blocks: Sequence[Block],
        final_norm: Norm | None,
        head: Linear,
        turn: Linear | None = None,
    ) -> None:
        module = native.module()
        assert module is not None, "the caller has asked whether the native module is there"
        require_table("embedding", embedding, sizes.width)
        if positions is not None:
            require_table("positions", positions, sizes.width)
        if position_offset < 0:
            raise ShapeError(f"decoder: position_offset is {position_offset}; it must not be negative")
        self._sizes, self._layers, self._vocabulary = sizes, len(blocks), head.choices[0][1].shape[0]
        self._held = (embedding, positions, tuple(blocks), final_norm, head, turn)
        rows = 0 if positions is None else positions.shape[0]
        self._native = module.Decoder(
            sizes.width,
            sizes.heads,
            sizes.kv_heads,
            sizes.depth,
            embedding.data_ptr(),
            embedding.shape[0],
            0 if positions is None else positions.data_ptr(),
            rows,
            position_offset,
        )
        for block in blocks:
            self._native.add_block(
                _stacked(block.turn),
                _norm(block.attention_norm),
                _stacked(block.qkv),
                _norm(block.q_norm),
                _norm(block.k_norm),
                block.scale,
                _linear(block.out),
                _norm(block.mlp_norm),
                _stacked(block.mlp_turn),
                _stacked(block.up),
                block.gated,
                ACTIVATIONS.index(block.activation),
                select_args(block.hidden),
                _linear(block.down),
                _foresights(block.attention_foresights),
                _foresights(block.mlp_foresights),
            )
        self._native.set_head(_stacked(turn), _norm(final_norm), _linear(head))

    @staticmethod
    def workspace() -> Any:
        """Memory for calls, one at a time."""
        module = native.module()
        assert module is not None
        return module.DecoderWorkspace()

    @staticmethod
    def parts() -> list[str]:
        """What `nanoseconds` counts, in order."""
        module = native.module()
        return [] if module is None else list(module.decoder_parts())

    def step(
        self,
        workspace: Any,
        ids: Tensor,
        positions: Tensor,
        past: int,
        cache: tuple[Tensor, Tensor],
        logits: Tensor,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        allowed: Tensor | None = None,
        first: Tensor | None = None,
        last_only: bool = True,
        nanoseconds: Tensor | None = None,
    ) -> None:
        """Writes the cache behind `past` and `logits` (batch, 1 or tokens, vocabulary).

        ids, positions: int64 (batch, tokens); rotary: cosine and sine (positions, depth / 2); allowed: uint8 (batch,
        capacity), 0 = hidden; first: int32 (batch), keys before are hidden; nanoseconds: int64 (parts), added to.
        All contiguous. Raises ValueError for an id, a position or a token count out of range.
        """
        self.bound(
            workspace,
            ids,
            positions,
            cache,
            logits,
            rotary=rotary,
            allowed=allowed,
            first=first,
            last_only=last_only,
            nanoseconds=nanoseconds,
        )(past)

    def bound(
        self,
        workspace: Any,
        ids: Tensor,
        positions: Tensor,
        cache: tuple[Tensor, Tensor],
        logits: Tensor,
        *,
        rotary: tuple[Tensor, Tensor] | None = None,
        allowed: Tensor | None = None,
        first: Tensor | None = None,
        last_only: bool = True,
        nanoseconds: Tensor | None = None,
    ) -> Callable[[int], None]:
        """`step` as a function of `past`, for calls over the same tensors: addresses are looked up once.

        The function holds the tensors and the workspace; threads are those of now.
        """
        keys, values = cache
        if ids.dim() != 2 or values.dim() != 5:
            raise ShapeError(
                f"decoder: ids {tuple(ids.shape)} must be (batch, tokens), values {tuple(values.shape)} 5-d"
            )
        batch, tokens = ids.shape
        capacity, threads = values.shape[3], torch.get_num_threads()
        seen = Seen(self._sizes, self._layers, self._vocabulary, batch, tokens, capacity, last_only)
        require_step(seen, ids, positions, keys, values, logits)
        require_options(seen, rotary, allowed, first, nanoseconds, len(self.parts()))
        step = self._native.step
        rest = (
            ids.data_ptr(),
            positions.data_ptr(),
            0 if rotary is None else rotary[0].data_ptr(),
            0 if rotary is None else rotary[1].data_ptr(),
            0 if rotary is None else rotary[0].shape[0],
            keys.data_ptr(),
            values.data_ptr(),
            0 if allowed is None else allowed.data_ptr(),
            0 if first is None else first.data_ptr(),
            last_only,
            logits.data_ptr(),
            0 if nanoseconds is None else nanoseconds.data_ptr(),
            threads,
        )
        held = (ids, positions, keys, values, logits, rotary, allowed, first, nanoseconds)

        def run(past: int, held: Any = held) -> None:
            step(workspace, batch, tokens, past, capacity, *rest)

        return run
