"""What a decoder-only language model is made of, whichever class it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.core.grid import codes_of
from rarefy.core.quantized import QuantizedWeight
from rarefy.ops.decoder import Norm, Select, Sizes
from rarefy.selectors.attach import Masking
from rarefy.selectors.likeliest import Likeliest


def rows_of(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The weight (out, in) of a linear layer in float32; GPT-2 stores (in, out). weight: in place of its own."""
    given = module.weight if weight is None else weight
    assert isinstance(given, Tensor)
    held = given.detach().float()
    return held if isinstance(module, nn.Linear) else held.t()


def _shape_of(module: nn.Module) -> tuple[int, int]:
    """(out, in) of a linear layer."""
    assert isinstance(module.weight, Tensor)
    first, second = module.weight.shape
    return (first, second) if isinstance(module, nn.Linear) else (second, first)


def _bias_of(module: nn.Module) -> Tensor | None:
    """(out) in float32, None where it has none."""
    return module.bias.detach().float() if isinstance(module.bias, Tensor) else None


@dataclass(frozen=True, eq=False)
class Merged:
    """Linear layers of one input computed as one: their rows follow each other. name: of the first; parts: in order.

    selector: what they look at of their input, and `select`, the same for the native step; None: all of it. rest: two
    layers through which the inputs go that they do not look at. before: (in, in) by which the input is multiplied
    first; the weight is that of both. shift: what the activation behind the first part takes off its rows.
    """

    name: str
    parts: tuple[nn.Module, ...]
    activation: str = "none"
    selector: Masking | None = None
    select: Select | None = None
    rest: "tuple[Merged, Merged] | None" = None
    before: Tensor | None = None
    shift: float = 0.0

    def weight(self) -> Tensor:
        """(out, in) float32, contiguous; a copy where there are several parts."""
        rows = [rows_of(part) for part in self.parts]
        whole = rows[0] if len(rows) == 1 else torch.cat(rows)
        return (whole if self.before is None else whole @ self.before.T).contiguous()

    def codes(self) -> QuantizedWeight | None:
        """The integers that all parts were rounded to, row by row; None where one was not, or to others."""
        if self.before is not None:
            return None
        parts = [codes_of(part) for part in self.parts]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or len({(part.bits, part.groups) for part in found}) > 1:
            return None
        values, scales = (torch.cat(rows) for rows in zip(*((p.values, p.scale) for p in found), strict=True))
        return QuantizedWeight(values, scales, found[0].bits)

    @property
    def in_features(self) -> int:
        return _shape_of(self.parts[0])[1]

    @property
    def size(self) -> int:
        """How many weights."""
        return self.in_features * self.out_features

    @property
    def out_features(self) -> int:
        return sum(_shape_of(part)[0] for part in self.parts)

    def bias(self) -> Tensor | None:
        """(out), zeros for a part without one; None where no part has any and nothing is taken off."""
        found = [_bias_of(part) for part in self.parts]
        if all(bias is None for bias in found) and not self.shift:
            return None
        pairs = zip(self.parts, found, strict=True)
        whole = [torch.zeros(_shape_of(part)[0]) if bias is None else bias for part, bias in pairs]
        return torch.cat([whole[0] - self.shift, *whole[1:]]).contiguous()

    def dense(self, x: Tensor) -> Tensor:
        """The layers as they were given, without activation, selector and rest: (..., in) to (..., out)."""
        x = x if self.before is None else x @ self.before
        outs = [F.linear(x, rows_of(part), _bias_of(part)) for part in self.parts]
        outs[0] = outs[0] - self.shift if self.shift else outs[0]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=-1)

    def look(self, x: Tensor, masks: Mapping[int, Tensor] = MappingProxyType({})) -> Tensor:
        """What the layers look at of an input (..., in); masks: those that were foreseen, by their slots."""
        return x if self.selector is None else x * mask_of(self.selector, self.select, x, masks)


def mask_of(selector: Masking, select: Select | None, x: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
    """A selector's mask of x; a foreseen one is among `masks`."""
    return selector.mask(x) if select is None or select.slot is None else masks[select.slot]


@dataclass(frozen=True, eq=False)
class Foresight:
    """A choice that is made from what a norm gives, and used where neurons or heads are selected: as `ops.decoder`'s.

    choose: the same in torch, (..., width) to bool (..., features).
    """

    net: tuple[Merged, ...]
    choose: Likeliest
    slot: int

    @property
    def share(self) -> float:
        """Of the features, what is kept of one token."""
        return min(1.0, self.choose.kept / self.net[-1].out_features)


@dataclass(frozen=True, eq=False)
class Layer:
    """One block: x + out(attention(norm(x))), then x + down(act(up(norm(x)))), `gated`: act(gate) * up.

    qkv, up: several where their parts do not look at the same of the input. hidden: which neurons are used behind the
    activation, None: all; with `gated` up is then the gate, with the activation, and up's own. by_itself: the
    activation itself chooses them, not a selector behind it. turn: what x is multiplied by before the block, mlp_turn:
    what the second norm gives is, where the block has a basis of its own.
    attention_foresights, mlp_foresights: the choices that are made from what the first and the second norm give.
    window: how many keys a token sees, its own the last of them; None: all before it. norms_behind: what is computed is
    norm(x + out(attention(x))), then norm(x + down(act(up(x)))).
    """

    attention_norm: Norm
    qkv: tuple[Merged, ...]
    q_norm: Norm | None
    k_norm: Norm | None
    scale: float
    out: Merged
    mlp_norm: Norm
    up: tuple[Merged, ...]
    gated: bool
    activation: str
    down: Merged
    hidden: Masking | None = None
    hidden_select: Select | None = None
    by_itself: bool = False
    turn: Merged | None = None
    mlp_turn: Merged | None = None
    attention_foresights: tuple[Foresight, ...] = ()
    mlp_foresights: tuple[Foresight, ...] = ()
    window: int | None = None
    norms_behind: bool = False

    def merged(self) -> tuple[Merged, ...]:
        """Those with weights of the model, in the order of the computation."""
        return (*self.qkv, self.out, *self.up, self.down)


@dataclass(frozen=True, eq=False)
class Structure:
    """The whole model.

    positions: a table that is added to the embedding, row p + position_offset for position p, or None; rotary: the
    module that gives cosines and sines for positions, or None; most_positions: beyond them the model was not made;
    positions_from_mask: a call without position_ids counts only the tokens that its attention_mask keeps; turn: what
    the last block's result is multiplied by before the last norm, where the head's weight has not taken it in;
    widen, narrow: what the embedding goes through before the first block, and the last norm's result before the head.
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
    turn: Merged | None = None
    widen: Merged | None = None
    narrow: Merged | None = None

    @property
    def steps(self) -> bool:
        """Whether the native step has all of its parts."""
        return self.widen is None and self.narrow is None and not any(layer.norms_behind for layer in self.layers)

    @property
    def plain(self) -> bool:
        """Whether its layers are all there is to choose for: no bases, predictors and low ranks beside them."""
        beside = [self.turn, *(x for one in self.layers for x in (one.turn, one.mlp_turn))]
        foreseen = any(one.attention_foresights or one.mlp_foresights for one in self.layers)
        whole = all(one.rest is None and one.before is None for one in self.merged())
        return whole and not foreseen and all(one is None for one in beside)

    @property
    def windows(self) -> set[int | None]:
        """How many keys a token sees in its layers; None: all."""
        return {layer.window for layer in self.layers}

    @property
    def selects(self) -> bool:
        """Whether anything in it looks at a part of its input only."""
        hidden = any(layer.hidden is not None for layer in self.layers)
        return hidden or any(one.selector is not None for one in self.merged())

    def merged(self) -> tuple[Merged, ...]:
        """All linear layers, in the order of the computation."""
        return (*(one for layer in self.layers for one in layer.merged()), self.head)

    @property
    def vocabulary(self) -> int:
        return self.embedding.shape[0]
