"""The first thing that pruning reports is measured time."""

import torch
from torch import nn

import rarefy


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8))


def test_every_pruned_layer_is_timed_at_the_datas_token_count():
    data = (torch.randn(48, 64) for _ in range(3))  # used up after one pass
    report = rarefy.prune(_net(), "wanda", sparsity=0.8, data=data)
    timing = report.timing
    assert timing["tokens"] == 48
    assert [row["name"] for row in timing["rows"]] == ["0", "2", "4"]
    assert timing["dense_ms"] == sum(row["dense_ms"] for row in timing["rows"])
    assert timing["speedup"] == timing["dense_ms"] / timing["sparse_ms"] > 0
    assert "measured here" in str(report)


def test_without_data_it_is_timed_at_128_tokens():
    assert rarefy.prune(_net(), "magnitude", sparsity=0.5).timing["tokens"] == 128


def test_it_can_be_switched_off():
    assert rarefy.prune(_net(), "magnitude", sparsity=0.5, measure=False).timing is None


def test_a_layer_without_kernel_is_listed_with_the_reason():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    timing = rarefy.prune(net, "magnitude", sparsity=0.5).timing
    rows = {row["name"]: row for row in timing["rows"]}
    assert rows["0"]["dense_ms"] is None
    assert "convolution" in rows["0"]["reason"]
    assert timing["dense_ms"] == rows["2"]["dense_ms"]


def test_a_loss_batch_is_what_the_loss_understands():
    net = _net()

    def loss(model, batch):
        return (model(batch["x"]) - batch["y"]).square().mean()

    batch = {"x": torch.randn(20, 64), "y": torch.randn(20, 8)}
    assert rarefy.prune(net, "wanda", sparsity=0.5, data=[batch], loss=loss).timing["tokens"] == 20
