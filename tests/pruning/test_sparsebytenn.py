"""The catalogued check: rearranging changes nothing that is computed, and blocks keep more weight than without it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from contracts.impostor import assert_beats_impostor
from rarefy.patterns.block import Block
from rarefy.pruning import prune
from rarefy.pruning.sparsebytenn import rearrange_channels


class Net(nn.Module):
    """A residual block, a depthwise convolution, a head: every way in which channels are tied together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.conv1, self.norm1 = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.deep, self.norm2 = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
        self.conv2, self.norm3 = nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu6(self.norm0(self.stem(x)))
        y = F.relu6(self.norm1(self.conv1(x)))
        y = self.norm3(self.conv2(F.relu6(self.norm2(self.deep(y)))))
        return self.head(F.adaptive_avg_pool2d(x + y, 1).flatten(1))


def net() -> tuple[Net, torch.Tensor]:
    """Channels that come in fours of like magnitudes, shuffled."""
    torch.manual_seed(5)
    model = Net().eval()
    for conv in (model.conv1, model.conv2):
        out, into = conv.weight.shape[:2]
        shape = (torch.rand(out // 4, into) < 0.3).float().repeat_interleave(4, 0)[torch.randperm(out)] + 0.05
        with torch.no_grad():
            conv.weight.mul_(shape[:, :, None, None] * 4)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5), norm.bias.normal_()
            norm.running_mean.normal_(), norm.running_var.uniform_(1, 2)
    return model, torch.randn(2, 3, 12, 12)


def test_rearranging_changes_the_order_and_not_the_function() -> None:
    model, x = net()
    before, wanted = copy.deepcopy(model), model(x)
    gain = rearrange_channels(model, x, sparsity=0.7)
    assert gain > 1.2
    assert not torch.equal(model.conv1.weight, before.conv1.weight)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)


def blocks_keep_more(rearrange) -> None:
    kept = []
    for arrange in (None, rearrange):
        model, x = net()
        if arrange is not None:
            arrange(model, x, sparsity=0.7)
        prune(model, "sparsebytenn", sparsity=0.7, ignore=["stem", "deep", "head"])
        for conv in (model.conv1, model.conv2):
            assert Block(4, 1).allows(conv.weight.flatten(1) != 0)
        kept.append(sum(float(c.weight.detach().square().sum()) for c in (model.conv1, model.conv2)))
    assert kept[1] > 1.2 * kept[0]


def test_blocks_keep_more_weight_after_rearranging() -> None:
    assert_beats_impostor(blocks_keep_more, rearrange_channels, lambda model, x, sparsity: None)


def test_a_model_whose_output_is_an_image_keeps_the_order_of_its_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    x = torch.randn(1, 3, 6, 6)
    last, wanted = model[2].weight.detach().clone(), model(x)
    rearrange_channels(model, x, sparsity=0.5)
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.sum((1, 2, 3)), model[2].weight.sum((1, 2, 3)))


@pytest.mark.parametrize("given", [lambda x: (x,), lambda x: {"input": x}])
def test_inputs_as_tuple_or_dictionary(given) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    x = torch.randn(1, 3, 6, 6)
    wanted = model(x)
    assert rearrange_channels(model, given(x), sparsity=0.5) >= 1.0
    torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5)
