"""Attention over keys and values that were pruned by magnitude and stored as bitmaps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rarefy.core.density import density_of
from rarefy.core.errors import ShapeError
from rarefy.core.topk import exact_count, keep_top
from rarefy.engine.systems.sparamx import SparAMX
from rarefy.ops import PackedWeight


@dataclass(frozen=True, eq=False)
class SparseCache:
    """Keys and values of the tokens so far, pruned and packed, one weight a (text, key head); new tokens stay dense.

    Source: SparAMX, arXiv:2502.12444, section 5 (sparse KV cache).
    Differs: the published shares of zeros could not be checked; those of `compress` are the arguments' defaults. Single
    queries only, and heads run one after the other.
    """

    keys: tuple[tuple[PackedWeight, ...], ...]  # (tokens, depth) of each text and key head
    values: tuple[tuple[PackedWeight, ...], ...]  # (depth, tokens)
    tokens: int

    @property
    def nbytes(self) -> int:
        return sum(packed.nbytes for rows in (*self.keys, *self.values) for packed in rows)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scale: float | None = None) -> Tensor:
        """softmax(scale q [K; k]^T) [V; v] for query (batch, heads, depth), all heads of a group over one key head.

        keys, values: (batch, key heads, new tokens, depth) of what came behind the pruned tokens, possibly none.
        scale: 1 / sqrt(depth) if None. Gives (batch, heads, depth).
        """
        batch, heads, depth = query.shape
        groups = len(self.keys[0]) if self.keys else 0
        if batch != len(self.keys) or not groups or heads % groups or keys.shape[:2] != (batch, groups):
            raise ShapeError(
                f"SparseCache.attend: query {tuple(query.shape)} and keys {tuple(keys.shape)} do not belong to a cache "
                f"of {len(self.keys)} texts with {groups} key heads"
            )
        scale = depth**-0.5 if scale is None else scale
        rows = query.reshape(batch, groups, heads // groups, depth).contiguous()
        out = torch.empty_like(rows)
        for text in range(batch):
            for head in range(groups):
                q, (k, v) = rows[text, head], (keys[text, head], values[text, head])
                old = self.keys[text][head].multiply(q, None, "none")
                weights = (torch.cat([old, q @ k.T], dim=1) * scale).softmax(dim=1)
                past = weights[:, : self.tokens].contiguous()
                out[text, head] = self.values[text][head].multiply(past, None, "none") + weights[:, self.tokens :] @ v
        return out.reshape(batch, heads, depth)


def compress(
    keys: Tensor, values: Tensor, *, key_sparsity: float = 0.3, value_sparsity: float = 0.5, weights: str = "bf16"
) -> SparseCache:
    """The cache of keys and values (batch, key heads, tokens, depth), of each head the smallest entries left out."""
    if keys.shape != values.shape or keys.dim() != 4:
        raise ShapeError(
            f"compress: keys {tuple(keys.shape)} and values {tuple(values.shape)} must be of one shape, "
            "(batch, heads, tokens, depth)"
        )
    system = SparAMX(weights, tokens=1)

    def packed(matrix: Tensor, sparsity: float, turned: bool) -> PackedWeight:
        count = exact_count(matrix.numel(), density_of(sparsity))
        kept = matrix * keep_top(matrix.abs().reshape(1, -1), count).view(matrix.shape)
        return system.pack((kept.T if turned else kept).contiguous())

    return SparseCache(
        tuple(tuple(packed(head, key_sparsity, False) for head in text) for text in keys.float()),
        tuple(tuple(packed(head, value_sparsity, True) for head in text) for text in values.float()),
        keys.shape[2],
    )
