"""Positions left out by convolutions: the gathered product is the masked one, and training gets used to a mask."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from analysis.digits import digits
from contracts.impostor import assert_beats_impostor
from rarefy.activations.images.positions import kept_positions, random_map
from rarefy.activations.images.semi_structured import CompactConv2d, PositionPruner, SemiStructured
from rarefy.activations.images.windows import Geometry, convolve_at, windows
from rarefy.core.errors import ModelError, ShapeError, SparsityError


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "share", "shared"),
    [
        (3, 1, 1, 1, 1, 0.4, True),
        (3, 2, 1, 1, 1, 0.4, False),
        (1, 1, 0, 1, 1, 1.0, False),
        (1, 3, 2, 1, 2, 0.3, True),
        (5, 2, 2, 2, 2, 0.5, False),
        (2, 1, 0, 2, 4, 0.5, False),
        (3, 1, 1, 1, 4, 0.0, True),
        (3, 1, 0, 1, 1, 0.0, False),
        (2, 3, 1, 1, 2, 0.0, True),
    ],
)
def test_gathered_windows_give_the_masked_convolution(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, share: float, shared: bool
) -> None:
    torch.manual_seed(kernel + 10 * stride)
    conv = nn.Conv2d(4, 8 if groups < 4 else 4, kernel, stride, padding, dilation, groups)
    x = torch.randn(3, 4, 11, 13)
    dense = conv(x)
    active = torch.rand(1 if shared else 3, *dense.shape[2:]) < share
    found = convolve_at(x, conv.weight, conv.bias, Geometry.of(conv), active)
    assert torch.allclose(found, dense * active[:, None], atol=1e-5)


def test_the_product_is_as_wide_as_there_are_kept_positions() -> None:
    conv, x = nn.Conv2d(3, 5, 3, padding=1), torch.randn(2, 3, 6, 6)
    kept = kept_positions(random_map((6, 6), torch.Generator().manual_seed(0)), (6, 6), 0.4)
    places = kept.expand(2, -1, -1).reshape(-1).nonzero()[:, 0]
    assert windows(x, Geometry.of(conv), places).shape == (2 * 14, 9, 3)  # round(0.4 * 36) = 14 an image


def test_gradients_are_those_of_the_masked_convolution() -> None:
    conv, x = nn.Conv2d(4, 6, 3, padding=1, groups=2), torch.randn(2, 4, 5, 5, requires_grad=True)
    active = torch.rand(2, 5, 5) < 0.5
    wanted = torch.autograd.grad((conv(x) * active[:, None]).square().sum(), [x, conv.weight, conv.bias])
    found = convolve_at(x, conv.weight, conv.bias, Geometry.of(conv), active)
    for a, b in zip(torch.autograd.grad(found.square().sum(), [x, conv.weight, conv.bias]), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, stride=2), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


def pictures(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = digits(count, seed)
    return x.view(-1, 1, 8, 8), y


def trained(steps: int, method: SemiStructured | None) -> tuple[nn.Module, PositionPruner | None]:
    model, (x, y) = net(), pictures(2000, 1)
    pruner = method.attach(model, x) if method else None
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for i in range(steps):
        rows = slice(i * 50 % 2000, i * 50 % 2000 + 50)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if pruner:
            pruner.step()
    return model, pruner


def accuracy(model: nn.Module) -> float:
    x, y = pictures(1000, 2)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


def test_training_with_the_masks_beats_putting_the_same_masks_on_afterwards() -> None:
    method = SemiStructured(0.5, end=40, freeze=50)
    model, pruner = trained(110, method)
    assert pruner is not None
    dense, _ = trained(110, None)
    late = method.attach(dense, torch.zeros(1, 1, 8, 8))
    for name, hook in late._hooks.items():
        hook.mask = pruner.masks[name]
    bar = accuracy(dense) + 0.03

    def check(candidate: nn.Module) -> None:
        assert accuracy(candidate) >= bar

    assert_beats_impostor(check, model, dense)
    masked = accuracy(model)
    assert accuracy(pruner.compact()) == pytest.approx(masked, abs=2e-3)


def test_masks_are_redrawn_until_they_freeze_and_are_one_for_all_channels_and_images() -> None:
    model, x = net(), torch.randn(4, 1, 8, 8)
    pruner = SemiStructured(0.5, end=2, freeze=4).attach(model, x)
    seen = []
    for _ in range(8):
        seen.append({name: mask.clone() for name, mask in pruner.masks.items()})
        pruner.step()
    assert all(not torch.equal(seen[2][n], seen[3][n]) for n in seen[0])
    assert all(torch.equal(seen[i][n], seen[4][n]) for n in seen[0] for i in (5, 6, 7))
    assert pruner.frozen and pruner.sparsity == pytest.approx(0.5)
    outputs = model[0](x) != 0
    assert torch.equal(outputs, seen[7]["0"].expand_as(outputs))
    twin = SemiStructured(0.5, end=2, freeze=4).attach(net(), x)
    assert all(torch.equal(twin.masks[n], seen[0][n]) for n in twin.masks)


def test_the_share_rises_quadratically() -> None:
    method = SemiStructured(0.8, begin=10, end=20)
    assert [method.share(t) for t in (0, 10, 15, 20, 99)] == pytest.approx([0.0, 0.0, 0.6, 0.8, 0.8])


def test_a_compact_model_has_the_masks_in_its_state_and_equals_the_masked_one() -> None:
    model, x = net(), torch.randn(4, 1, 8, 8)
    pruner = SemiStructured(0.5).attach(model, x, ignore=["0"])  # the map stands where its share is reached
    pruner.step()
    wanted = model(x)
    keys = set(model.state_dict())
    compact = pruner.compact()
    assert torch.allclose(compact(x), wanted, atol=1e-5)
    assert set(compact.state_dict()) - keys == {"2.kept", "4.kept"}
    assert isinstance(compact[2], CompactConv2d) and isinstance(compact[0], nn.Conv2d)
    assert torch.allclose(copy.deepcopy(compact)(x), wanted, atol=1e-5)
    with pytest.raises(ShapeError, match=r"the mask has shape \(1, 4, 4\)"):
        compact(torch.randn(1, 1, 10, 10))


def test_bad_input_says_what_to_do() -> None:
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ModelError, match="no Conv2d"):
        SemiStructured().attach(nn.Linear(3, 3), x)
    with pytest.raises(SparsityError, match=r"1\.5"):
        SemiStructured(sparsity=1.5)
    with pytest.raises(SparsityError, match="begin < end"):
        SemiStructured(begin=5, end=5)
    with pytest.raises(ModelError, match="not frozen before step 9"):
        SemiStructured(freeze=9).attach(net(), x).compact()
    model = net()
    SemiStructured().attach(model, x)
    with pytest.raises(ShapeError, match="images of the size"):
        model[0](torch.zeros(1, 1, 9, 9))
    with pytest.raises(ModelError, match="circular"):
        Geometry.of(nn.Conv2d(1, 1, 3, padding_mode="circular"))


def test_a_convolution_in_several_places_is_compact_in_all_of_them() -> None:
    shared, images = nn.Conv2d(3, 3, 3, padding=1), torch.randn(2, 3, 8, 8)
    net = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    pruner = SemiStructured(0.5).attach(net, images)
    pruner.step()
    masked = net(images)
    torch.testing.assert_close(pruner.compact()(images), masked)
    assert net[0] is net[2][0] and isinstance(net[0], CompactConv2d)


def test_one_convolution_alone_comes_back_compact() -> None:
    conv, images = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 9, 9)
    pruner = SemiStructured(0.5).attach(conv, images)
    pruner.step()
    masked = conv(images)
    compact = pruner.compact()
    assert isinstance(compact, CompactConv2d)
    torch.testing.assert_close(compact(images), masked)


def test_what_cannot_be_masked_is_refused_before_anything_changes() -> None:
    shared, images = nn.Conv2d(3, 3, 3, padding=1), torch.randn(1, 3, 8, 8)
    with pytest.raises(ModelError, match=r"feature maps of \(8, 8\) and of \(4, 4\).*ignore="):
        SemiStructured().attach(nn.Sequential(shared, nn.MaxPool2d(2), shared), images)
    with pytest.raises(ShapeError, match="give images"):
        SemiStructured().attach(nn.Sequential(shared), images[0])
    aside = nn.Identity()
    aside.conv = shared
    with pytest.raises(ModelError, match="reaches none"):
        SemiStructured().attach(aside, images)
    circular = nn.Sequential(shared, nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"))
    pruner = SemiStructured().attach(circular, images)
    pruner.step()
    masked = circular(images)
    with pytest.raises(ModelError, match="circular"):
        pruner.compact()
    assert circular[0] is shared
    torch.testing.assert_close(circular(images), masked)  # the masks are still on
