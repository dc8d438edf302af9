"""What is said of a call that a compiled model does not take: the cause, and not what else is unlike the example."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import DTypeError, ShapeError
from transformers_tiny import ids, tiny


def pruned(model: nn.Module) -> nn.Module:
    rarefy.prune(model.eval(), "magnitude", sparsity=0.85, measure=False)
    return model


def test_an_input_that_may_be_left_out_is_not_what_is_wrong(prefer) -> None:
    prefer("graph")
    fast = rarefy.compile(pruned(tiny("Bert")), {"input_ids": ids(), "attention_mask": torch.ones_like(ids())})
    with pytest.raises(ShapeError, match=r"does not run on these inputs: input_ids int64 \(1, 600\);.* It says: .*600"):
        fast(input_ids=ids(1, 600))
    with pytest.raises(ShapeError, match=r"inputs_embeds float32 \(1, 600, 32\);.* It says: .*600"):
        fast(inputs_embeds=torch.randn(1, 600, 32))
    with pytest.raises(DTypeError, match=r"'attention_mask' has another type.* got bool \(1, 600\)\. It says: .*600"):
        fast(input_ids=ids(1, 600), attention_mask=torch.ones(1, 600, dtype=torch.bool))


def test_an_image_that_is_too_small_is_no_matter_of_features() -> None:
    fast = rarefy.compile(pruned(nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU())), torch.randn(2, 3, 16, 16))
    with pytest.raises(ShapeError, match=r"does not run on these inputs: input float32 \(2, 3, 3, 3\);.* It says: ."):
        fast(torch.randn(2, 3, 3, 3))
