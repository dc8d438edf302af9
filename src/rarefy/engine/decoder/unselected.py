"""The same model without its selectors, on the weights that are packed already: what checks a sparse model's tokens."""

from collections.abc import Mapping
from dataclasses import replace

from rarefy.engine.decoder.choose import Chosen
from rarefy.engine.decoder.layer_plan import ChosenLayer, Plan
from rarefy.engine.decoder.structure import Layer, Merged, Structure
from rarefy.ops import PackedWeight

_SKIPPING = ("columns", "neurons")  # kernels of selected inputs and rows


def unselected(structure: Structure, plan: Plan) -> tuple[Structure, Plan]:
    """The structure and plan with all selectors paused; nothing is packed anew.

    Layers that skip for few tokens run by the layout that they have for more, where there is one, else by the skipping
    one over all inputs. What selects by itself (a TopKReLU) is no selector and stays.
    """
    merged = {id(one): replace(one, selector=None, select=None, rest=None) for one in structure.merged()}
    layers = tuple(_all_neurons(layer, merged) for layer in structure.layers)

    def chosen(one: Chosen, activation: str | None = None) -> Chosen:
        whole = merged[id(one.merged)]
        whole = whole if activation is None else replace(whole, activation=activation)
        return Chosen(whole, one.bias, _steps(one.steps))

    def chosen_layer(picked: ChosenLayer, layer: Layer) -> ChosenLayer:
        ups = tuple(chosen(one, new.activation) for one, new in zip(picked.up, layer.up, strict=True))
        return ChosenLayer(
            tuple(map(chosen, picked.qkv)), chosen(picked.out), ups, chosen(picked.down), picked.turn, picked.mlp_turn
        )

    chosen_layers = tuple(map(chosen_layer, plan.layers, layers))
    head = merged[id(structure.head)]
    return replace(structure, layers=layers, head=head), Plan(chosen_layers, chosen(plan.head), plan.turn)


def _all_neurons(layer: Layer, merged: Mapping[int, Merged]) -> Layer:
    """The block with these layers; a gate whose neurons are all used leaves its activation to the block."""
    ups = tuple(merged[id(one)] for one in layer.up)
    whole = not layer.by_itself
    if whole and layer.hidden is not None and layer.gated:
        ups = (replace(ups[0], activation="none"), *ups[1:])
    return replace(
        layer,
        qkv=tuple(merged[id(one)] for one in layer.qkv),
        out=merged[id(layer.out)],
        up=ups,
        down=merged[id(layer.down)],
        hidden=None if whole else layer.hidden,
        hidden_select=None if whole else layer.hidden_select,
        attention_foresights=(),
        mlp_foresights=(),
    )


def _steps(steps: tuple[tuple[int, PackedWeight | None], ...]) -> tuple[tuple[int, PackedWeight | None], ...]:
    """Each count by its own layout, or if that skips by the next that does not."""
    made, later = list[tuple[int, PackedWeight | None]](), None
    for limit, packed in reversed(steps):
        if packed is not None and not packed.kernel.startswith(_SKIPPING):
            later = packed
        skips = packed is not None and packed.kernel.startswith(_SKIPPING)
        made.append((limit, later if skips and later is not None else packed))
    return tuple(reversed(made))
