import torch

from contracts.impostor import assert_beats_impostor
from contracts.models import perceptron
from rarefy.pruning import prune


def mask_of(method: str, scale: float, seed: int = 0) -> torch.Tensor:
    model = perceptron().model
    with torch.no_grad():
        model[2].weight[:16] *= scale
    prune(model, method, sparsity=0.5, seed=seed)
    return model[2].weight != 0


def blind_to_the_weights(method: str) -> None:
    assert torch.equal(mask_of(method, 1.0), mask_of(method, 100.0))


def test_random() -> None:
    assert_beats_impostor(blind_to_the_weights, "random", "magnitude")


def test_the_seed_is_all_that_it_depends_on() -> None:
    assert torch.equal(mask_of("random", 1.0, seed=3), mask_of("random", 1.0, seed=3))
    overlap = (mask_of("random", 1.0, seed=3) & mask_of("random", 1.0, seed=4)).float().mean().item()
    assert 0.15 < overlap < 0.35  # one quarter where the two are independent
