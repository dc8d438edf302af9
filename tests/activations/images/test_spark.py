"""Submanifold convolutions never fill the hidden places in, and a convnet learns from what it sees of a picture."""

import copy

import pytest
import torch
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.activations.images.spark import Pretraining, Spark
from rarefy.activations.images.submanifold import Visible, VisibleNorm, make_dense, make_sparse
from rarefy.core.errors import ModelError, ShapeError, SparsityError


def deep(layers: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Conv2d(3 if i == 0 else 6, 6, 3, padding=1) for i in range(layers)]).double()


def staged() -> nn.Sequential:
    """Maps of 1/2, 1/4 and 1/8 of the image, with batch norm and pooling."""
    torch.manual_seed(0)

    def stage(inner: int, out: int, *more: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(inner, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), *more)

    return nn.Sequential(
        stage(3, 8, nn.MaxPool2d(2)),
        stage(8, 16, nn.Conv2d(16, 16, 2, stride=2)),
        stage(16, 32, nn.Conv2d(32, 32, 3, stride=2, padding=1)),
    )


def patches(seed: int = 0, images: int = 4, side: int = 4) -> torch.Tensor:
    found = torch.rand(images, side, side, generator=torch.Generator().manual_seed(seed)) < 0.4
    found[:, 0, 0] = True
    return found


@pytest.mark.parametrize("gather_below", [0.0, 1.1])
def test_both_ways_give_the_dense_convolution_times_the_mask(gather_below: float) -> None:
    model, visible, x = staged().eval(), Visible(), torch.randn(4, 3, 32, 32)
    visible.patches = patches()
    reference = x * visible.at(32, 32)[:, None]
    for layer in (m for stage in model for m in stage):  # type: ignore[union-attr]
        reference = layer(reference)
        reference = reference * visible.at(*reference.shape[2:])[:, None]
    make_sparse(model, visible, gather_below=gather_below)
    assert torch.allclose(model(x * visible.at(32, 32)[:, None]), reference, atol=1e-5)


def test_the_active_set_never_erodes_where_plain_convolutions_fill_it_in() -> None:
    visible, x = Visible(), torch.randn(4, 3, 32, 32).double()
    visible.patches = patches()
    mask = visible.at(32, 32)
    sparse = deep()
    make_sparse(sparse, visible)

    def check(model: nn.Module) -> None:
        assert torch.equal((model(x * mask[:, None]) != 0).any(1), mask)

    assert_beats_impostor(check, sparse, deep())


def test_visible_outputs_know_nothing_of_hidden_pixels() -> None:
    model = staged()
    spark = Spark(width=32).attach(model, ["0", "1", "2"], torch.zeros(1, 3, 32, 32)).eval()
    x, seen = torch.randn(4, 3, 32, 32), patches()
    other = torch.where(seen.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None], x, 9 * torch.randn(x.shape))
    for a, b in zip(spark.encode(x, seen), spark.encode(other, seen), strict=True):
        assert torch.equal(a, b) and (a != 0).any()
    assert torch.equal(spark.rebuild(x, seen), spark.rebuild(other, seen))


def test_norm_takes_its_statistics_from_visible_places() -> None:
    visible, x = Visible(), torch.randn(4, 6, 8, 8) * 3 + 1
    visible.patches = patches()
    mask = visible.at(8, 8)
    norm = VisibleNorm(nn.BatchNorm2d(6), visible)
    out = norm(x * mask[:, None]).permute(0, 2, 3, 1)
    assert torch.allclose(out[mask].mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(out[mask].var(0, unbiased=False), torch.ones(6), atol=1e-3) and not out[~mask].any()
    wanted = x.permute(0, 2, 3, 1)[mask].mean(0)
    assert torch.allclose(norm.state_dict()["running_mean"], 0.1 * wanted, atol=1e-5)


def shapes_in_pictures(count: int, seed: int) -> torch.Tensor:
    """Stripes of random direction and phase: a hidden patch follows from its neighbours."""
    g = torch.Generator().manual_seed(seed)
    angle, phase = (torch.rand(count, 1, 1, generator=g) * 6.28 for _ in range(2))
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    wave = torch.sin((rows * angle.cos() + columns * angle.sin()) * 0.5 + phase)
    return wave[:, None] * torch.tensor([1.0, 0.5, -1.0])[:, None, None]


def test_pretraining_rebuilds_hidden_patches_and_gives_the_encoder_back() -> None:
    encoder = staged()
    before, keys = copy.deepcopy(encoder.state_dict()), list(encoder.state_dict())
    spark = Spark(width=32, hidden=0.5).attach(encoder, ["0", "1", "2"], torch.zeros(1, 3, 32, 32))
    assert spark.patch == 8 and list(encoder.state_dict()) == keys
    optimizer = torch.optim.Adam(spark.parameters(), 5e-3)
    losses = []
    for i in range(40):
        loss = spark(shapes_in_pictures(16, i))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 0.9 and sum(losses[-5:]) / 5 < 0.75 * losses[0]
    assert all(p.grad is not None and p.grad.any() for p in encoder.parameters() if p.dim() > 1)
    assert spark.finish() is encoder and list(encoder.state_dict()) == keys
    assert isinstance(encoder[0][0], nn.Conv2d) and not torch.equal(encoder[0][0].weight, before["0.0.weight"])
    assert not torch.equal(encoder[0][1].running_mean, before["0.1.running_mean"])
    assert not encoder[0]._forward_hooks and encoder(torch.randn(2, 3, 40, 40)).shape == (2, 32, 5, 5)


def test_a_deep_copy_stands_on_its_own() -> None:
    spark = Spark(width=32).attach(staged(), ["0", "1", "2"], torch.zeros(1, 3, 32, 32)).eval()
    x, seen = torch.randn(4, 3, 32, 32), patches()
    wanted, twin = spark(x, seen), copy.deepcopy(spark)
    with torch.no_grad():
        for parameter in spark.parameters():
            parameter.zero_()
    assert torch.equal(twin(x, seen), wanted) and not torch.equal(spark(x, seen), wanted)


def test_the_drawn_masks_hide_the_asked_share_of_every_image() -> None:
    spark = Spark(width=32, hidden=0.6).attach(staged(), ["0", "1", "2"], torch.zeros(1, 3, 32, 32))
    drawn = spark.draw(50, (4, 5))
    assert drawn.sum((1, 2)).eq(8).all() and not drawn.all(0).any() and drawn.any(0).all()
    assert spark.draw(3, (1, 2)).sum((1, 2)).eq(1).all()


def test_bad_input_says_what_to_do() -> None:
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(SparsityError, match=r"hidden 1\.0"):
        Spark(hidden=1.0)
    with pytest.raises(ModelError, match="has no module 'layer9'"):
        Spark().attach(staged(), ["layer9"], x)
    with pytest.raises(ShapeError, match="each is half"):
        Spark().attach(staged(), ["0", "2"], x)
    with pytest.raises(ShapeError, match="power of two"):
        Spark().attach(nn.Sequential(nn.Conv2d(3, 4, 3, stride=3)), ["0"], torch.zeros(1, 3, 33, 33))
    with pytest.raises(ShapeError, match="no multiple of 8"):
        Spark(width=20).attach(staged(), ["0", "1", "2"], x)
    with pytest.raises(ModelError, match="LayerNorm has no form"):
        make_sparse(nn.Sequential(nn.LayerNorm(3)), Visible())
    sparse = deep(1)
    make_sparse(sparse, Visible())
    with pytest.raises(ModelError, match="no patches are set"):
        sparse(x.double())
    assert make_dense(sparse) == 1 and isinstance(sparse[0], nn.Conv2d)
    visible = Visible()
    visible.patches = patches(side=5)
    with pytest.raises(ShapeError, match=r"no multiple of \(5, 5\)"):
        visible.at(32, 32)
    assert isinstance(Spark().attach(staged(), ["0", "1", "2"], x), Pretraining)


def test_images_of_one_patch_are_refused_since_nothing_would_be_visible() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    with pytest.raises(ShapeError, match="one patch of 4 pixels"):
        Spark(width=8).attach(encoder, ["0", "1"], torch.zeros(1, 3, 4, 4))
    assert isinstance(encoder[0], nn.Conv2d)


def test_layers_that_were_frozen_in_evaluation_stay_so() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    encoder[1].eval()
    found = Spark(width=8).attach(encoder, ["2"], torch.zeros(1, 3, 8, 8)).finish()
    assert found.training and not found[1].training and found[2].training
