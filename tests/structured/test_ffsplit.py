"""FFSplit: exact before compression, finds the heavy neurons, and is worth it only because of them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from activations.tiny import llama, opt, text
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError, SparsityError
from rarefy.selectors import feed_forwards
from rarefy.structured.ffsplit import FFSplit, output_norms

WIDTH, NEURONS, HEAVY = 48, 400, 20


class Plain(nn.Module):
    """fc1, activation, fc2; `HEAVY` planted neurons read and write far more than the others."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.activation_fn, self.fc2 = nn.Linear(WIDTH, NEURONS), nn.ReLU(), nn.Linear(NEURONS, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.activation_fn(self.fc1(x)))
        return y


def planted() -> tuple[nn.Sequential, tuple[int, ...], Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(Plain())
    heavy = torch.randperm(NEURONS)[:HEAVY].sort().values
    with torch.no_grad():
        for weight in (model[0].fc1.weight, model[0].fc2.weight.T):
            light = torch.randn(NEURONS, 6) @ torch.randn(6, WIDTH) / 60
            weight.copy_(light + torch.randn(NEURONS, WIDTH) / 400)
            weight[heavy] = torch.randn(HEAVY, WIDTH) / 2
    return model, tuple(heavy.tolist()), torch.randn(400, WIDTH)


def test_the_split_alone_changes_nothing() -> None:
    for model, batch in ((llama(), {"input_ids": text()}), (nn.Sequential(Plain()), torch.randn(64, WIDTH))):
        with torch.no_grad():
            call = (lambda m, b=batch: m(**b).logits) if isinstance(batch, dict) else (lambda m, b=batch: m(b))
            wanted = call(model)
            found = FFSplit(0.2, weights=1.0).apply(model, [batch])
            assert torch.allclose(call(model), wanted, atol=1e-5)
        assert all(layer.rank is None and layer.weights == 1.0 for layer in found.values())


def test_the_planted_heavy_neurons_are_found() -> None:
    model, heavy, x = planted()
    found = FFSplit(HEAVY / NEURONS, 0.25).apply(model, [x])["0"]
    assert found.heavy == heavy
    assert found.weights <= 0.25 and found.rank is not None and found.energy > 0.3
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == round(found.weights * 2 * WIDTH * NEURONS)


def error(model: nn.Module, kept: Tensor, x: Tensor, weights: float) -> float:
    split = copy.deepcopy(model)
    layer = feed_forwards(split)[0]
    norms = output_norms(split, [layer], [x])["0"]
    FFSplit(0.0, weights).split(split, layer, kept, norms)
    with torch.no_grad():
        return float((split(x) - model(x)).norm() / model(x).norm())


def test_at_equal_size_it_beats_one_low_rank_for_all_and_a_random_split_does_not() -> None:
    model, heavy, x = planted()
    whole = error(model, torch.zeros(NEURONS, dtype=torch.bool), x, 0.25)

    def check(kind: str) -> None:
        kept = torch.zeros(NEURONS, dtype=torch.bool)
        kept[list(heavy) if kind == "heavy" else torch.randperm(NEURONS)[:HEAVY]] = True
        assert error(model, kept, x, 0.25) < 0.75 * whole

    assert_beats_impostor(check, "heavy", "random")


def test_what_cannot_be_split_is_named() -> None:
    with pytest.raises(ModelError, match="not a module of its own"):
        FFSplit().apply(opt(), [{"input_ids": text()}])
    with pytest.raises(SparsityError, match="heavy"):
        FFSplit(heavy=0.6, weights=0.5)
    model, _, x = planted()
    with pytest.raises(SparsityError, match="rank 1"):
        FFSplit(heavy=0.3, weights=0.305).apply(model, [x])


def test_a_layer_that_blocks_share_is_split_in_all_of_them() -> None:
    model = llama()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    with torch.no_grad():
        wanted = model(input_ids=text()).logits
    found = FFSplit(heavy=0.1, weights=1.0).apply(model, [text()])
    assert list(found) == ["model.layers.0.mlp"]
    assert model.model.layers[1].mlp is model.model.layers[0].mlp and hasattr(model.model.layers[1].mlp, "heavy")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=text()).logits, wanted)
