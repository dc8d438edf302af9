"""Where selections of a model are foreseen, as the runtime takes it: which norm says what a later place uses."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from rarefy.engine.decoder.parts import NotKnownError
from rarefy.engine.decoder.structure import Foresight, Layer, Merged, Structure
from rarefy.selectors import input_selector
from rarefy.selectors.foreseen import Foreseen, watches
from rarefy.selectors.likeliest import Likeliest
from rarefy.selectors.predictor import Predictor

_HEADS, _NEURONS = 0, 2  # slots of masks: two for each, of blocks with even and with odd numbers


def foresights(model: nn.Module, structure: Structure) -> Structure:
    """The structure with its foreseen selections. Raises NotKnownError where one is made or used where the runtime has
    no place for it: made by a projection of this block or the one before, used on heads or on neurons."""
    watched = {id(hook.foreseen): (module, hook.foreseen) for module in model.modules() for hook in watches(module)}
    used = {id(selector): at for at, selector in _uses(structure)}
    if not watched and not used:
        return structure
    if len(watched) != sum(len(watches(module)) for module in model.modules()):
        raise NotKnownError("a selection is foreseen from two places")
    layers = list(structure.layers)
    for key, (source, foreseen) in watched.items():
        if key not in used:
            raise NotKnownError("a foreseen selection is used where the runtime takes none")
        number, slot = used[key]
        at, attention = _source(layers, source)
        inside = at == number and (attention or slot >= _NEURONS)  # made before it is used
        if not inside and at != number - 1:
            raise NotKnownError(f"what block {number} uses is foreseen in block {at}")
        made = _foresight(f"model.{number}.foreseen.{slot}", foreseen, slot)
        layers[at] = _with_foresight(layers[at], made, attention)
        layers[number] = _with_slot(layers[number], slot)
    if used.keys() - watched.keys():
        raise NotKnownError("a foreseen selection is made nowhere in the model")
    return replace(structure, layers=tuple(layers))


def _uses(structure: Structure) -> list[tuple[tuple[int, int], Foreseen]]:
    """((block, slot), selector) of what is foreseen. Raises NotKnownError for one elsewhere."""
    found = []
    for number, layer in enumerate(structure.layers):
        for first, selector in ((_HEADS, layer.out.selector), (_NEURONS, layer.hidden)):
            if isinstance(selector, Foreseen):
                found.append(((number, first + number % 2), selector))
        others = (*layer.qkv, *layer.up, layer.down)
        if any(isinstance(one.selector, Foreseen) for one in others):
            raise NotKnownError(f"block {number} has a foreseen selection that is neither of heads nor of neurons")
    if isinstance(structure.head.selector, Foreseen):
        raise NotKnownError("the head has a foreseen selection")
    return found


def _source(layers: Sequence[Layer], source: nn.Module) -> tuple[int, bool]:
    """(block, whether it reads what the first norm gives) of the layer whose input is watched."""
    for number, layer in enumerate(layers):
        for attention, readers in ((True, layer.qkv), (False, layer.up)):
            if any(part is source for one in readers for part in one.parts):
                if input_selector(source) is not None:
                    raise NotKnownError(f"block {number} foresees from an input that is itself selected")
                return number, attention
    raise NotKnownError(f"a selection is foreseen from a {type(source).__name__} that reads no norm")


def _foresight(name: str, foreseen: Foreseen, slot: int) -> Foresight:
    choose = foreseen.choose
    if type(choose) is not Likeliest or type(choose.predictor) is not Predictor:
        raise NotKnownError(f"a selection is foreseen by {getattr(choose, '__name__', type(choose).__name__)}")
    if choose.predictor.second.out_features * choose.spread != foreseen.width:
        raise NotKnownError("a predictor foresees another number of features than are selected")
    return Foresight(_net(name, choose.predictor), choose, slot)


def _net(name: str, predictor: Predictor) -> tuple[Merged, ...]:
    """The predictor's layers, the first with the standardising in its weight and bias."""
    by = 1.0 / predictor.scale
    if predictor.first is None:
        return (Merged(f"{name}.second", (_scaled(predictor.second, by, predictor.mean),)),)
    first = Merged(f"{name}.first", (_scaled(predictor.first, by, predictor.mean),), "relu")
    return first, Merged(f"{name}.second", (predictor.second,))


def _scaled(layer: nn.Linear, by: torch.Tensor, mean: torch.Tensor) -> nn.Linear:
    """The layer of (x - mean) * by as one of x."""
    weight = layer.weight.detach() * by
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    bias = -weight @ mean if layer.bias is None else layer.bias.detach() - weight @ mean
    made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def _with_foresight(layer: Layer, made: Foresight, attention: bool) -> Layer:
    if attention:
        return replace(layer, attention_foresights=(*layer.attention_foresights, made))
    return replace(layer, mlp_foresights=(*layer.mlp_foresights, made))


def _with_slot(layer: Layer, slot: int) -> Layer:
    if slot < _NEURONS:
        assert layer.out.select is not None
        return replace(layer, out=replace(layer.out, select=replace(layer.out.select, slot=slot)))
    assert layer.hidden_select is not None
    return replace(layer, hidden_select=replace(layer.hidden_select, slot=slot))
