"""Runs new tokens through the model, natively in one call where every layer is packed for them, else layer by layer."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, EngineError, ShapeError
from rarefy.engine.decoder.cache import DecoderCache
from rarefy.engine.decoder.layer_plan import Plan
from rarefy.engine.decoder.rotary import RotaryTable
from rarefy.engine.decoder.structure import Structure
from rarefy.engine.decoder.walk import walk
from rarefy.ops import available
from rarefy.ops.decoder import Block, NativeDecoder

_CHUNK = 1024  # rows (batch x tokens) in one pass over the layers: bounds the memory that a long prompt needs


def native_of(structure: Structure, plan: Plan) -> NativeDecoder:
    """The model as the native module holds it."""
    blocks = [
        Block(
            layer.attention_norm,
            tuple(one.native() for one in chosen.qkv),
            layer.q_norm,
            layer.k_norm,
            layer.scale,
            chosen.out.native(),
            layer.mlp_norm,
            tuple(one.native() for one in chosen.up),
            layer.gated,
            layer.activation,
            chosen.down.native(),
            layer.hidden_select,
            None if chosen.turn is None else chosen.turn.native(),
            None if chosen.mlp_turn is None else chosen.mlp_turn.native(),
            tuple(by.native() for by in chosen.attention_foresights),
            tuple(by.native() for by in chosen.mlp_foresights),
        )
        for layer, chosen in zip(structure.layers, plan.layers, strict=True)
    ]
    return NativeDecoder(
        structure.sizes,
        structure.embedding,
        structure.positions,
        structure.position_offset,
        blocks,
        structure.final_norm,
        plan.head.native(),
        None if plan.turn is None else plan.turn.native(),
    )


class Runner:
    """The model without any state of a text: calls may come from several threads, each with a cache of its own."""

    def __init__(self, structure: Structure, plan: Plan) -> None:
        self.structure, self.plan = structure, plan
        self._native = native_of(structure, plan) if self.is_native else None
        self._rotary = None if structure.rotary is None else RotaryTable(structure.rotary)
        self._own = threading.local()
        windows = structure.windows - {None}
        self._nearest = min((window for window in windows if window is not None), default=None)
        self._window = self._nearest if len(structure.windows) == 1 else None  # of all layers

    @property
    def is_native(self) -> bool:
        """Whether a token is one native call."""
        return available() and self.structure.steps and self.plan.is_native(1)

    def __reduce__(self) -> tuple[Any, ...]:
        return Runner, (self.structure, self.plan)  # the native model and the workspaces are made anew

    def cache(self, batch: int, tokens: int) -> DecoderCache:
        """An empty cache for so many tokens."""
        return DecoderCache(len(self.structure.layers), batch, self.structure.sizes, tokens)

    def require_ids(self, where: str, ids: Any) -> Tensor:
        """Token ids (batch, tokens) as contiguous int64, or an error that says what is wrong with them."""
        if not isinstance(ids, Tensor):
            raise DTypeError(
                f"{where}: input_ids is a {type(ids).__name__}; give a tensor (batch, tokens) of token ids"
            )
        if ids.dtype not in (torch.int64, torch.int32):
            raise DTypeError(f"{where}: input_ids is {ids.dtype}; token ids are int64 (or int32)")
        if ids.device.type != "cpu":
            raise DTypeError(f"{where}: input_ids is on {ids.device}; the compiled model runs on the CPU: ids.cpu()")
        if ids.dim() != 2:
            raise ShapeError(f"{where}: input_ids has shape {tuple(ids.shape)}; it must be (batch, tokens)")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.structure.vocabulary:
            raise DTypeError(
                f"{where}: input_ids span [{int(ids.min())}, {int(ids.max())}], outside the vocabulary of "
                f"{self.structure.vocabulary}"
            )
        return ids.long().contiguous()

    def require_length(self, where: str, tokens: int) -> None:
        """Raises EngineError where a text is longer than the model's positions."""
        if tokens > self.structure.most_positions:
            raise EngineError(
                f"{where}: {tokens} tokens are more than the {self.structure.most_positions} positions that the model "
                "was made for; shorten the input or ask for fewer new tokens"
            )

    def run(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: DecoderCache,
        last_only: bool,
        out: Tensor | None = None,
        nanoseconds: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, 1 or tokens, vocabulary) of checked ids at positions (both int64); the cache takes them in.

        out: where the logits go, if they are to go somewhere; nanoseconds: int64, what parts take is added to it.
        """
        batch, tokens = ids.shape
        chunk = max(1, _CHUNK // max(1, batch))
        if tokens <= chunk:
            return self._once(ids, positions, cache, last_only, out, nanoseconds)
        starts = range(0, tokens, chunk)
        pieces = [
            self._once(
                ids[:, at : at + chunk].contiguous(),
                positions[:, at : at + chunk].contiguous(),
                cache,
                last_only,
                None,
                nanoseconds,
            )
            for at in starts
        ]
        return pieces[-1] if last_only else torch.cat(pieces, dim=1)

    def stepper(
        self, ids: Tensor, positions: Tensor, cache: DecoderCache, nanoseconds: Tensor | None = None
    ) -> tuple[Tensor, Callable[[], None]]:
        """(logits (batch, 1, vocabulary), a function that fills them): runs `ids` and `positions` (batch, 1), which the
        caller changes between calls, up to the cache's capacity. What can be looked up once is."""
        logits = torch.empty(ids.shape[0], 1, self.plan.head.out_features)
        if self._native is None or not self._takes(ids.shape[0], 1, cache.capacity):

            def run() -> None:
                self.run(ids, positions, cache, last_only=True, out=logits)

            return logits, run
        window, first = self._window, self._first(cache, 1)
        step = self._native.bound(
            self._workspace(),
            ids,
            positions,
            (cache.keys, cache.values),
            logits,
            rotary=None if self._rotary is None else self._rotary.at_least(cache.capacity),
            allowed=cache.allowed,
            first=first,
            nanoseconds=nanoseconds,
        )

        def advance() -> None:
            step(cache.length)
            cache.length += 1

        if window is None or first is None:
            return logits, advance

        def advance_window() -> None:
            first.copy_(cache.first_in(window))
            advance()

        return logits, advance_window

    def _takes(self, batch: int, tokens: int, total: int) -> bool:
        """Whether the native step takes so many new tokens of texts that are then `total` long: where a window hides
        some keys it takes one token a text, and the same window in every layer."""
        hides = self._nearest is not None and total > self._nearest
        return self.plan.is_native(batch * tokens) and (not hides or (tokens == 1 and self._window is not None))

    def _first(self, cache: DecoderCache, tokens: int) -> Tensor | None:
        """int32 (batch): keys before are hidden from the next tokens."""
        return cache.first if self._window is None or tokens > 1 else cache.first_in(self._window)

    def _once(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: DecoderCache,
        last_only: bool,
        out: Tensor | None,
        nanoseconds: Tensor | None,
    ) -> Tensor:
        batch, tokens = ids.shape
        table = None if self._rotary is None else self._rotary.at_least(self._positions_needed(cache, positions))
        if self._native is None or not self._takes(batch, tokens, cache.length + tokens):
            logits = walk(self.structure, self.plan, ids, positions, cache, table, last_only)
            if out is not None:
                logits = out.copy_(logits)
        else:
            shape = (batch, 1 if last_only else tokens, self.plan.head.out_features)
            logits = torch.empty(shape) if out is None else out
            self._native.step(
                self._workspace(),
                ids,
                positions,
                cache.length,
                (cache.keys, cache.values),
                logits,
                rotary=table,
                allowed=cache.allowed,
                first=self._first(cache, tokens),
                last_only=last_only,
                nanoseconds=nanoseconds,
            )
        cache.length += tokens
        return logits

    def _positions_needed(self, cache: DecoderCache, positions: Tensor) -> int:
        """Rows of the table: positions run behind or with the slots, unless the caller gave others."""
        slots = cache.length + positions.shape[1]
        if positions.shape[1] == 1 and positions.shape[0] == 1:
            return max(slots, int(positions) + 1)
        return max(slots, int(positions.max()) + 1 if positions.numel() else 0)

    def _workspace(self) -> Any:
        if not hasattr(self._own, "workspace"):
            self._own.workspace = NativeDecoder.workspace()
        return self._own.workspace
