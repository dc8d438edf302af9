"""Keys and values of the tokens seen so far, preallocated."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rarefy.core.errors import DTypeError, ShapeError
from rarefy.ops.decoder import PANEL, Sizes, capacity_for, empty_cache


class DecoderCache:
    """Preallocated keys and values of one batch of texts; `past_key_values` of a compiled decoder.

    length: tokens held; allowed: uint8 (batch, capacity), 0 where a token is padding, or None while none is;
    first: int32 (batch), tokens before which all are padding. Used by one call at a time, in inference mode or not:
    what is written to later is never an inference tensor.
    """

    @torch.inference_mode(False)
    def __init__(self, layers: int, batch: int, sizes: Sizes, tokens: int) -> None:
        self.sizes, self.batch, self.length = sizes, batch, 0
        self.keys, self.values = empty_cache(layers, batch, sizes, capacity_for(tokens))
        self.allowed: Tensor | None = None
        self.first: Tensor | None = None

    @property
    def capacity(self) -> int:
        """Tokens that fit without growing."""
        return self.values.shape[3]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens held, as caches of transformers say it."""
        return self.length

    def crop(self, length: int) -> None:
        """Forgets the tokens behind `length`; below 0 the last so many, as caches of transformers do."""
        if not -self.length <= length <= self.length:
            raise ShapeError(f"DecoderCache.crop: length {length} is outside [0, {self.length}]")
        self.length = length if length >= 0 else self.length + length

    @torch.inference_mode(False)
    @torch.no_grad()
    def reserve(self, tokens: int) -> None:
        """Makes room for so many tokens in all, at least doubling where it must grow."""
        if tokens <= self.capacity:
            return
        old, kept = (self.keys, self.values), capacity_for(self.length)
        layers = self.keys.shape[0]
        self.keys, self.values = empty_cache(
            layers, self.batch, self.sizes, capacity_for(max(tokens, 2 * self.capacity))
        )
        self.keys[:, :, :, : kept // PANEL] = old[0][:, :, :, : kept // PANEL]
        self.values[:, :, :, : self.length] = old[1][:, :, :, : self.length]
        if self.allowed is not None:
            self.allowed = torch.nn.functional.pad(self.allowed, (0, self.capacity - self.allowed.shape[1]), value=1)

    def see(self, mask: Tensor | None, new: int) -> None:
        """Notes which tokens are padding: mask (batch, length + new), 0 = padding, or None: none is, held or new."""
        total = self.length + new
        if mask is None:
            self.allowed = self.first = None
            return
        if mask.dtype.is_floating_point or mask.dtype.is_complex:
            raise DTypeError(f"attention_mask is {mask.dtype}; it must hold 0 and 1 as integers or bool")
        if tuple(mask.shape) != (self.batch, total):
            raise ShapeError(
                f"attention_mask has shape {tuple(mask.shape)}; it must be (batch, past + new tokens)="
                f"{(self.batch, total)}"
            )
        keep = mask != 0
        if self.allowed is None and bool(keep.all()):
            return
        if self.allowed is None:
            with torch.inference_mode(False):
                self.allowed = torch.ones(self.batch, self.capacity, dtype=torch.uint8)
        self.allowed[:, :total] = keep
        shown = keep.any(1)
        self.first = torch.where(shown, keep.to(torch.uint8).argmax(1), 0).to(torch.int32).contiguous()

    def first_in(self, window: int) -> Tensor:
        """int32 (batch): before which keys the next token sees none, where it sees so many, itself the last."""
        start = self.length + 1 - window
        padding = torch.zeros(self.batch, dtype=torch.int32) if self.first is None else self.first
        return padding.clamp_min(start)

    def pad(self, first: Sequence[int]) -> None:
        """Notes that each text begins at a slot of its own; all before is padding."""
        if any(first):
            self.first = torch.tensor(first, dtype=torch.int32)
            self.allowed = (torch.arange(self.capacity) >= self.first[:, None]).to(torch.uint8)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Puts keys and values (batch, kv_heads, new, depth) behind the `length` tokens held; `length` stays."""
        slots = torch.arange(self.length, self.length + k.shape[2])
        self.keys[layer][:, :, slots // PANEL, :, slots % PANEL] = k.permute(2, 0, 1, 3)
        self.values[layer][:, :, self.length : self.length + k.shape[2]] = v

    def read(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, kv_heads, tokens, depth) of the first `tokens` slots."""
        panels = capacity_for(tokens) // PANEL
        keys = self.keys[layer][:, :, :panels].transpose(-1, -2).flatten(2, 3)[:, :, :tokens]
        return keys, self.values[layer][:, :, :tokens]

    def text(self, row: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values (layers, kv_heads, tokens, depth) of the last `tokens` slots of one text."""
        keys = self.keys[:, row].transpose(-1, -2).flatten(2, 3)
        return keys[:, :, self.length - tokens : self.length], self.values[
            :, row, :, self.length - tokens : self.length
        ]


def side_by_side(texts: Sequence[tuple[DecoderCache, int, int]], room: int) -> DecoderCache:
    """One cache of several texts (cache, row, tokens), ending at one slot, with room for so many tokens more."""
    longest = max(tokens for _, _, tokens in texts)
    like = texts[0][0]
    whole = DecoderCache(like.keys.shape[0], len(texts), like.sizes, longest + room)
    whole.keys.zero_(), whole.values.zero_()  # what is masked must be finite all the same
    slots = whole.keys.transpose(-1, -2)  # (layers, batch, kv_heads, panels, slots of a panel, depth)
    for row, (cache, at, tokens) in enumerate(texts):
        keys, values = cache.text(at, tokens)
        spread = torch.zeros_like(whole.values[:, row])
        spread[:, :, longest - tokens : longest] = keys
        slots[:, row] = spread.unflatten(2, (-1, PANEL))
        whole.values[:, row, :, longest - tokens : longest] = values
    whole.length = longest
    whole.pad([longest - tokens for _, _, tokens in texts])
    return whole
