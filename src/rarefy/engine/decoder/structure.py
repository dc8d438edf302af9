"""What a decoder-only language model is made of, whichever class it comes from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.grid import codes_of
from rarefy.core.quantized import QuantizedWeight
from rarefy.ops.decoder import Norm, Sizes


def _rows(module: nn.Module) -> Tensor:
    """The weight (out, in) of a linear layer; GPT-2 stores (in, out)."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if isinstance(module, nn.Linear) else weight.detach().t()


@dataclass(frozen=True, eq=False)
class Merged:
    """Linear layers of one input computed as one: their rows follow each other. name: of the first; parts: in order."""

    name: str
    parts: tuple[nn.Module, ...]
    activation: str = "none"

    def weight(self) -> Tensor:
        """(out, in) float32, contiguous; a copy where there are several parts."""
        rows = [_rows(part) for part in self.parts]
        return rows[0].contiguous() if len(rows) == 1 else torch.cat(rows)

    def codes(self) -> QuantizedWeight | None:
        """The integers that all parts were rounded to, row by row; None where one was not, or to others."""
        parts = [codes_of(part) for part in self.parts]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or len({(part.bits, part.groups) for part in found}) > 1:
            return None
        values, scales = (torch.cat(rows) for rows in zip(*((p.values, p.scale) for p in found), strict=True))
        return QuantizedWeight(values, scales, found[0].bits)

    @property
    def out_features(self) -> int:
        return sum(_rows(part).shape[0] for part in self.parts)

    def bias(self) -> Tensor | None:
        """(out), zeros for a part without one; None where no part has any."""
        found = [part.bias if isinstance(part.bias, Tensor) else None for part in self.parts]
        if all(bias is None for bias in found):
            return None
        pairs = zip(self.parts, found, strict=True)
        whole = [torch.zeros(_rows(part).shape[0]) if bias is None else bias.detach() for part, bias in pairs]
        return torch.cat(whole).contiguous()

    def dense(self, x: Tensor) -> Tensor:
        """The layers as they were given, without the activation: (..., in) to (..., out)."""
        outs = [part(x) for part in self.parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)


@dataclass(frozen=True, eq=False)
class Layer:
    """One block: x + out(attention(norm(x))), then x + down(act(up(norm(x)))), `gated`: act(gate) * up."""

    attention_norm: Norm
    qkv: Merged
    q_norm: Norm | None
    k_norm: Norm | None
    scale: float
    out: Merged
    mlp_norm: Norm
    up: Merged
    gated: bool
    activation: str
    down: Merged


@dataclass(frozen=True, eq=False)
class Structure:
    """The whole model.

    positions: a table that is added to the embedding, row p + position_offset for position p, or None; rotary: the
    module that gives cosines and sines for positions, or None; most_positions: beyond them the model was not made;
    positions_from_mask: a call without position_ids counts only the tokens that its attention_mask keeps.
    """

    kind: str
    sizes: Sizes
    embedding: Tensor
    positions: Tensor | None
    position_offset: int
    rotary: nn.Module | None
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    head: Merged
    most_positions: int
    positions_from_mask: bool = False

    @property
    def vocabulary(self) -> int:
        return self.embedding.shape[0]
