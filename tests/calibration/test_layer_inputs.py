"""What layers read: padding left out in every class, every call of a layer that blocks share."""

import pytest
import torch
from torch import Tensor

from rarefy.activations.deja_vu import DejaVu
from rarefy.activations.polar_sparsity import PolarSparsity
from rarefy.calibration.layer_inputs import layer_inputs
from rarefy.core.errors import DataError, ModelError
from rarefy.selectors import feed_forwards
from transformers_tiny import PARTS, ids, tiny

MASK = torch.ones(3, 10, dtype=torch.long)
MASK[0, 6:] = 0
MASK[1, :3] = 0


@pytest.mark.parametrize("kind", PARTS)
def test_padding_is_no_evidence_in_any_class(kind: str) -> None:
    model, batch = tiny(kind), {"input_ids": ids(3, 10), "attention_mask": MASK}
    down = feed_forwards(model)[1].down
    seen: list[Tensor] = []
    hook = down.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(30, -1)))
    with torch.no_grad():
        model(**batch)
    hook.remove()
    found = next(iter(layer_inputs(model, {"down": down}, [batch])))["down"]
    assert torch.equal(found, seen[0][MASK.bool().flatten()])


def test_a_layer_that_two_blocks_share_gives_the_tokens_of_both_calls() -> None:
    model = tiny("Llama")
    apart = [layer.down for layer in feed_forwards(model)]
    model.model.layers[1].mlp.down_proj = apart[0]
    shared = next(iter(layer_inputs(model, {"down": apart[0]}, [ids(1, 4)])))["down"]
    assert shared.shape == (8, 64) and not torch.equal(shared[:4], shared[4:])


@pytest.mark.parametrize("method", [DejaVu(), PolarSparsity(neurons=False)])
def test_errors_of_held_out_text_name_it(method: DejaVu | PolarSparsity) -> None:
    with pytest.raises(DataError, match="held_out is empty"):
        method.apply(tiny("Llama"), [ids()], [])
    with pytest.raises(DataError, match=r"held_out\[0\]: .* is text"):
        method.apply(tiny("Llama"), [ids()], ["text"])


def test_routing_that_would_route_nothing_is_refused() -> None:
    with pytest.raises(ModelError, match="first layer's heads stay dense"):
        PolarSparsity(neurons=False).apply(tiny("OPT", num_hidden_layers=1), [ids()], [ids()])
