import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from rarefy.calibration import walk
from rarefy.core.errors import SparsityError
from rarefy.core.evidence import Evidence, Need
from rarefy.core.protocols import Score
from rarefy.core.site import Site, find_sites
from rarefy.pruning import prune
from rarefy.scores.input_norm import InputNorm
from rarefy.scores.regional import RegionalGradient


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def blocks() -> tuple[nn.Sequential, list[Tensor]]:
    torch.manual_seed(9)
    return nn.Sequential(Block(), Block(), Block()), [torch.randn(16, 8) for _ in range(3)]


def scores(score: Score, model: nn.Module, batches: list[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def visit(site: Site, evidence: Evidence) -> None:
        found[site.name] = score(site.read(), evidence)

    walk(model, find_sites(model)[0], batches, score.needs, visit)
    return found


def a_unit_that_the_block_ignores_comes_last(score: Score) -> None:
    """Unit 2 of `up` is multiplied by zero in `down`: no input statistic can know, the block's gradient does."""
    model, batches = blocks()
    with torch.no_grad():
        model[1].down.weight[:, 2] = 0.0
        model[1].up.weight[2] *= 3.0
    found = scores(score, model, batches)["1.up"]
    assert found[2].max() < found[[0, 1, 3, 4, 5, 6, 7]].median()


def test_regional_gradients() -> None:
    assert_beats_impostor(a_unit_that_the_block_ignores_comes_last, RegionalGradient(1e4), InputNorm())


def test_the_gradient_is_that_of_the_blocks_output_norm() -> None:
    model, batches = blocks()
    seen: dict[str, Evidence] = {}
    sites = find_sites(model)[0]
    walk(model, sites, batches, frozenset({Need.REGIONAL_GRADIENT}), lambda s, e: seen.update({s.name: e}))
    total = torch.zeros(8, 8)
    for x in batches:
        hidden = model[0](x).detach()
        (grad,) = torch.autograd.grad(model[1](hidden).norm(), [model[1].up.weight])
        total += grad.square() / len(batches) / 16  # tokens of a batch
    torch.testing.assert_close(seen["1.up"][Need.REGIONAL_GRADIENT], total.sqrt())


def test_without_a_chain_the_model_is_the_region_and_nothing_is_left_behind() -> None:
    model, x = nn.Sequential(nn.Linear(8, 4)), torch.randn(5, 8)
    found = scores(RegionalGradient(), model, [x])["0"]
    (grad,) = torch.autograd.grad(model(x).norm(), [model[0].weight])
    expected = (100.0 * grad.abs() / 5**0.5 + x.square().mean(0).sqrt()) * model[0].weight.abs()
    torch.testing.assert_close(found, expected.detach())
    assert model[0].weight.grad is None


def test_how_the_data_are_cut_into_batches_hardly_matters() -> None:
    """The same row 64 times, as one batch or as many: the same scores."""
    model, x = blocks()[0], torch.randn(1, 8)
    one, many = (scores(RegionalGradient(), model, data)["1.up"] for data in ([x.repeat(64, 1)], [x] * 64))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


def test_one_threshold_for_all_layers_sees_the_gradients_of_every_block() -> None:
    """The unit that block 1 ignores goes from its `up` whole, as large as its weights are."""
    model, batches = blocks()
    with torch.no_grad():
        model[1].down.weight[:, 2] = 0.0
        model[1].up.weight[2] *= 3.0
    options = {"pattern": "layerwise", "allocation": "global", "strength": 1e6}
    report = prune(model, "wanda-plus-plus", sparsity=0.5, data=batches, **options)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert not model[1].up.weight[2].any() and (model[1].up.weight != 0).sum() > 8


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(SparsityError, match="strength"):
        RegionalGradient(-1.0)
