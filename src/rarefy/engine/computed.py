"""Layers whose weight is computed from others at each call: they stay in torch, and are said to."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rarefy.engine.explain import LayerRow

_WHY = "its weight is computed from others (weight_norm, torch.nn.utils.prune, ...), so none can be packed for it"


def computed_rows(model: nn.Module, names: Sequence[str]) -> Iterator[LayerRow]:
    """Rows of these layers for `explain()`."""
    for name in names:
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
        yield LayerRow(name, (weight.shape[0], weight[:1].numel()), sparsity, 0, "dense", None, None, _WHY)
