"""Where attention heads may be selected: what each attention layer reads, and the layer that joins its heads."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rarefy.core.errors import ModelError
from rarefy.selectors import projections
from rarefy.selectors.matrix import weight_of


@dataclass(frozen=True, eq=False)
class Heads:
    """name: of the layer that joins the heads; source: the first projection that reads the attention's input; count:
    heads; groups: heads that share keys and values lie next to each other, so many groups there are."""

    name: str
    source: nn.Module
    join: nn.Module
    count: int
    groups: int

    @property
    def width(self) -> int:
        """Features of a head."""
        return weight_of(self.join).shape[1] // self.count

    def spread(self, kept: Tensor) -> Tensor:
        """(..., groups) as (..., features of the joined heads)."""
        return kept.repeat_interleave(self.width * self.count // self.groups, dim=-1)

    def norms(self, joined: Tensor) -> Tensor:
        """(tokens, features) -> (tokens, groups): length of what each group of heads adds to the residual stream."""
        weight = weight_of(self.join).to(joined.dtype)
        size = joined.shape[1] // self.groups
        parts = [joined[:, i : i + size] @ weight[:, i : i + size].T for i in range(0, joined.shape[1], size)]
        return torch.stack([part.norm(dim=1) for part in parts], 1)


def head_places(model: nn.Module, *, grouped: bool = False) -> list[Heads]:
    """The attention layers in order. grouped: heads with the same keys and values count as one.

    ModelError where the numbers of heads are not in the model's config.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_attention_heads", None)
    if count is None:
        raise ModelError(f"{type(model).__name__}: its config names no num_attention_heads; heads cannot be told apart")
    groups = (getattr(config, "num_key_value_heads", None) or count) if grouped else count
    found, source = [], None
    for place in projections(model):
        if place.part in ("q", "qkv"):
            source = place.module
        elif place.part == "o" and source is not None:
            found.append(Heads(place.name, source, place.module, count, groups))
    if not found:
        raise ModelError(f"{type(model).__name__}: no attention layer is known")
    return found
