"""Windows left out of a Swin transformer: exact where kept, untouched where not, and chosen by their content."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.activations.images.search_windows import search_windows
from rarefy.activations.images.sparsevit import RATIOS, SparseViT, WindowPruning
from rarefy.activations.images.swin_windows import cut, kept_windows, window_norms
from rarefy.core.errors import ModelError, SparsityError


def swin(size: int = 32, window: int = 4, depths: tuple[int, ...] = (2, 2)) -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    config = SwinConfig(
        image_size=size, patch_size=2, num_channels=1, embed_dim=16, depths=list(depths), num_heads=[2] * len(depths),
        window_size=window, num_labels=10, drop_path_rate=0.0,
    )  # fmt: skip
    return SwinForImageClassification(config).eval()


def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=x).logits


@pytest.mark.parametrize(("size", "window"), [(32, 4), (28, 4), (20, 3)])
def test_all_windows_computed_is_the_dense_model(size: int, window: int) -> None:
    """Also where the windows do not divide the feature map, and in shifted blocks."""
    model, x = swin(size, window), torch.randn(3, 1, size, size)
    wanted, keys = outputs(model, x), list(model.state_dict())
    pruning = SparseViT().attach(model)
    assert torch.equal(outputs(model, x), wanted)
    pruning.ratios = [1e-9] * 4  # nothing is left out, by the path that gathers
    assert torch.allclose(outputs(model, x), wanted, atol=1e-5) and list(model.state_dict()) == keys
    pruning.detach()
    assert torch.equal(outputs(model, x), wanted)


@pytest.mark.parametrize("shift", [0, 2])
def test_dropped_windows_come_out_bit_equal_and_kept_ones_as_in_the_dense_block(shift: int) -> None:
    block = swin().swin.encoder.layers[0].blocks[1 if shift else 0]
    assert block.shift_size == shift
    x = torch.randn(2, 256, 16)
    kept = torch.stack([torch.randperm(16)[:5] for _ in range(2)])
    with torch.no_grad():
        found, dense = kept_windows(block, x, (16, 16), kept), block(x, (16, 16))[0]
    places = cut(torch.arange(256).view(1, 16, 16, 1), 4, shift)[0, :, :, 0]
    for image in range(2):
        chosen = places[kept[image]].flatten()
        assert torch.allclose(found[image, chosen], dense[image, chosen], atol=1e-5)
        others = torch.ones(256, dtype=torch.bool).scatter(0, chosen, False)
        assert int(others.sum()) == 11 * 16 and torch.equal(found[image, others], x[image, others])
    nothing = kept_windows(block, x, (16, 16), kept[:, :0])
    assert torch.equal(nothing, x)


def test_windows_of_a_stage_are_scored_once_and_nested() -> None:
    model, calls = swin(depths=(4, 2)), []

    def score(images: torch.Tensor, window: int, shift: int) -> torch.Tensor:
        calls.append(images)
        return window_norms(images, window, shift)

    pruning = SparseViT().attach(model, score=score)
    pruning.ratios = [0.2, 0.2, 0.5, 0.7, 0.3, 0.3]
    outputs(model, torch.randn(2, 1, 32, 32))
    kept = pruning.kept
    assert [kept[i].shape[1] for i in range(6)] == [13, 13, 8, 5, 3, 3]
    assert torch.equal(kept[2], kept[0][:, :8]) and torch.equal(kept[3], kept[1][:, :5])
    assert calls[0] is not None and all(torch.equal(calls[0], c) for c in calls[:4]) and len(calls) == 6


def canvas(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of 64 x 64, empty but for a digit in one of 64 cells; and which cell."""
    pictures, _ = digits(count, seed, noise=0.05)
    cells = torch.randint(0, 64, (count,), generator=torch.Generator().manual_seed(seed))
    found = torch.zeros(count, 8, 8, 8, 8)
    found[torch.arange(count), cells // 8, :, cells % 8] = pictures.view(-1, 8, 8) + 0.3
    return found.view(count, 1, 64, 64), cells


def test_norms_find_the_windows_with_content_where_random_windows_do_not() -> None:
    x, cells = canvas(100, 0)

    def check(score: Any) -> None:
        model = swin(64, 4, (2,))  # patches of 2, windows of 4: one window a cell
        pruning = SparseViT(0.8).attach(model, score=score)
        outputs(model, x)
        recall = (pruning.kept[0] == cells[:, None]).any(1).float().mean()
        assert pruning.kept[0].shape[1] == 13 and recall > 0.95

    def chance(images: torch.Tensor, window: int, shift: int) -> torch.Tensor:
        return torch.rand(len(images), 64, generator=torch.Generator().manual_seed(0))

    assert_beats_impostor(check, window_norms, chance)


def slow_first_block(ratios: Any) -> float:
    """A made-up latency: the first block costs most; in all 10 for nothing left out."""
    return float(4 * (1 - ratios[0]) + sum(2 * (1 - r) for r in ratios[1:]))


def found_ratios(pruning: WindowPruning, limit: float, seen: list[tuple[float, ...]]) -> tuple[float, ...]:
    def loss() -> float:
        seen.append(tuple(pruning.ratios))
        return sum(r * w for r, w in zip(pruning.ratios, (1.0, 5.0, 1.0, 1.0), strict=True))

    return search_windows(pruning, loss, slow_first_block, limit, generations=6, population=12)


def test_the_search_meets_the_limit_and_beats_equal_ratios() -> None:
    pruning, seen = SparseViT().attach(swin()), []
    found = found_ratios(pruning, 6.0, seen)
    assert pruning.ratios == list(found) and slow_first_block(found) <= 6.0
    assert all(slow_first_block(ratios) <= 6.0 for ratios in seen) and set(found) <= set(RATIOS)
    assert found[0] <= found[1] and found[2] <= found[3] and len(set(seen)) == len(seen)

    def check(ratios: tuple[float, ...]) -> None:
        assert sum(r * w for r, w in zip(ratios, (1.0, 5.0, 1.0, 1.0), strict=True)) < 0.95 * 0.4 * 8

    assert_beats_impostor(check, found, (0.4,) * 4)
    assert found == found_ratios(SparseViT().attach(swin()), 6.0, [])
    with pytest.raises(SparsityError, match="80% of the windows left out in all blocks takes 2"):
        found_ratios(pruning, 1.0, seen)


def test_adaptation_draws_rising_ratios_and_trains_through_the_kept_windows() -> None:
    model, x = swin().train(), torch.randn(4, 1, 32, 32)
    pruning = SparseViT(seed=3).attach(model)
    drawn = [tuple(pruning.randomise()) for _ in range(20)]
    assert all(r[0] <= r[1] and r[2] <= r[3] for r in drawn) and len(set(drawn)) > 15
    pruning.ratios = [0.5] * 4
    model(pixel_values=x).logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    attention = model.swin.encoder.layers[0].blocks[1].attention  # releases call its layers differently
    assert next(m for m in attention.modules() if isinstance(m, nn.Linear)).weight.grad.any()


def test_a_deep_copy_stands_on_its_own() -> None:
    model, x = swin(), torch.randn(2, 1, 32, 32)
    SparseViT(0.5).attach(model)
    wanted, twin = outputs(model, x), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(outputs(twin, x), wanted) and not torch.equal(outputs(model, x), wanted)


def test_measured_latency_sets_the_ratios_back() -> None:
    pruning = SparseViT(0.2).attach(swin())
    time = pruning.latency(torch.randn(1, 1, 32, 32), rounds=3)([0.8] * 4)
    assert time > 0 and pruning.ratios == [0.2] * 4
    with pytest.raises(RuntimeError):
        pruning.latency(torch.randn(1, 2, 32, 32))([0.8] * 4)  # two channels, where the model takes one
    assert pruning.ratios == [0.2] * 4


def test_bad_input_says_what_to_do() -> None:
    with pytest.raises(ModelError, match="has no blocks of window attention; looked for"):
        SparseViT().attach(nn.Linear(2, 2))
    with pytest.raises(SparsityError, match=r"1\.2"):
        SparseViT(1.2)
    model = swin()
    pruning = SparseViT().attach(model)
    with pytest.raises(SparsityError, match="3 for 4 blocks"):
        pruning.ratios = [0.1] * 3
    with pytest.raises(ModelError, match="has it already"):
        SparseViT().attach(model)
    pruning.detach()
    assert SparseViT().attach(model).ratios == [0.0] * 4
