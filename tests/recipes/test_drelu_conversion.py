"""A converted model regains most of its loss in a short distillation, and stays three quarters zero."""

import copy

import torch

from activations.tiny import llama, next_loss, text, train
from contracts.impostor import assert_beats_impostor
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.recipes.drelu_conversion import convert_to_drelu


def test_most_of_the_loss_comes_back_and_the_zeros_stay() -> None:
    model = llama(initializer_range=0.1)
    dense = train(model, 80, rate=1e-2)
    data = [{"input_ids": text(16, seed=s)} for s in range(3, 11)]
    bare = copy.deepcopy(model)
    DReLU().apply(bare)

    def loss(of: torch.nn.Module) -> float:
        with torch.no_grad():
            return next_loss(of, text(32, seed=0)).item()

    fallen = loss(bare) - dense
    assert fallen > 0.1

    def check(kind: str) -> None:
        if kind == "distilled":
            found = convert_to_drelu(model, data, steps=60, lr=5e-3)
            assert found.stats.density <= 0.25 and len(found.losses) == 60
        assert loss(model if kind == "distilled" else bare) - dense < 0.4 * fallen

    assert_beats_impostor(check, "distilled", "swapped only")
