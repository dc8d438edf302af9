"""Random masks know nothing of the weights, not even where model and trainer have the same seed."""

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.seeds import own_generator
from rarefy.training.random_source import random_source
from rarefy.training.run import SOURCE


def correlation(weight: torch.Tensor, mask: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([weight.flatten(), mask.flatten().float()]))[0, 1])


@pytest.mark.parametrize(
    "method", ["static", "set", "rigl", "srigl", "sparse-momentum", "deep-rewiring", "dst-ee", "spdf"]
)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_first_mask_is_not_drawn_from_the_numbers_of_the_first_weight(method: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128))
    weights = [model[i].weight.detach().clone() for i in (0, 2)]
    trainer = rarefy.sparse_training(
        model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method, sparsity=0.5, total_steps=9, seed=seed
    )
    for weight, mask in zip(weights, trainer.masks.values(), strict=True):
        assert abs(correlation(weight, mask)) < 0.03
        assert abs(correlation(weight.abs(), mask)) < 0.03


def test_the_random_net_that_others_search_in_has_both_signs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(128, 128))
    weight = model[0].weight.detach().clone()
    method = random_source(inner="edge-popup", source=0.5)
    trainer = rarefy.sparse_training(
        model, torch.optim.SGD(model.parameters(), lr=0.1), method, sparsity=0.9, total_steps=9
    )
    assert abs(correlation(weight, trainer.run.states[0].extra[SOURCE])) < 0.03


def test_a_generator_of_ones_own_gives_other_numbers_than_the_seed_of_torch() -> None:
    def apart(generator: torch.Generator) -> None:
        torch.manual_seed(3)
        drawn = torch.rand(4000)
        found = torch.rand(4000, generator=generator)
        assert abs(float(torch.corrcoef(torch.stack([drawn, found]))[0, 1])) < 0.06

    assert_beats_impostor(apart, own_generator(3, "masks"), torch.Generator().manual_seed(3))
    again = torch.rand(5, generator=own_generator(3, "masks"))
    assert torch.equal(again, torch.rand(5, generator=own_generator(3, "masks")))
    assert not torch.equal(again, torch.rand(5, generator=own_generator(4, "masks")))
    assert not torch.equal(again, torch.rand(5, generator=own_generator(3, "noise")))
