"""Layers that stay in torch whatever their zeros, and are said to."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from rarefy.core.site import OTHER_CONVOLUTIONS, RECURRENT
from rarefy.engine.explain import LayerRow

_COMPUTED = "its weight is computed from others (weight_norm, torch.nn.utils.prune, ...), so none can be packed for it"
_OTHERS = (*RECURRENT, *OTHER_CONVOLUTIONS)


def rows_in_torch(model: nn.Module, computed: Sequence[str]) -> list[LayerRow]:
    """Rows for `explain()`: of the layers `computed`, whose weights are, and of every weight of the kinds of layers
    that have no native kernel (recurrent ones, convolutions over one and three dimensions or transposed)."""
    return [*_computed(model, computed), *_others(model)]


def _computed(model: nn.Module, names: Sequence[str]) -> Iterator[LayerRow]:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        weight = modules.get(name, model).weight  # a model that is one layer goes by the name of its class
        assert isinstance(weight, Tensor)
        yield _row(name, weight, _COMPUTED)


def _others(model: nn.Module) -> Iterator[LayerRow]:
    for name, module in model.named_modules():
        if isinstance(module, _OTHERS):
            why = f"{type(module).__name__} has no native kernel"
            for part, weight in module.named_parameters(recurse=False):
                if weight.dim() > 1:
                    yield _row(f"{name}.{part}".removeprefix("."), weight, why)


def _row(name: str, weight: Tensor, why: str) -> LayerRow:
    sparsity = 1.0 - int(weight.count_nonzero()) / max(1, weight.numel())
    return LayerRow(name, (weight.shape[0], weight[:1].numel()), sparsity, 0, "dense", None, None, why)
