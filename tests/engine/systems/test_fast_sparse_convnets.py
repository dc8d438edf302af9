"""The catalogued check but for the clock, which `benchmarks/engine/systems.py` reads."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from rarefy.core.errors import EngineError
from rarefy.core.registry import lookup
from rarefy.engine import with_system
from rarefy.engine.systems.fast_sparse_convnets import FastSparseConv, block_weight, break_even
from rarefy.ops import Window, available
from rarefy.ops.conv_kernels import kernels

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")
KINDS = {k.name: k for k in kernels()}


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_equals_the_dense_convolution_for_odd_sizes_and_strides(block: int, sparsity: float) -> None:
    system = lookup("kernel", "fast-sparse-convnets").factory(block=block)
    for out, width, image, stride in (
        (13, 7, (3, 5), 1),
        (33, 17, (15, 13), 2),
        (8, 64, (14, 14), 1),
        (5, 3, (1, 9), 3),
    ):
        weight, bias = block_weight((out, width), sparsity, block, seed=out), torch.randn(out)
        window = Window((stride, stride))
        packed = system.pack_conv(weight, window)
        x = torch.randn(2, width, *image)
        want = F.relu6(F.conv2d(x.double(), weight.double(), bias.double(), stride))
        got = packed.convolve(x, bias, None, "relu6")
        assert float((got - want).abs().max()) < 1e-5
        assert KINDS[packed.kernel].together == (block > 1) and (block == 1 or KINDS[packed.kernel].rows == block)


def test_only_non_zeros_are_stored_and_blocks_share_their_offsets() -> None:
    weight = block_weight((64, 64), 0.9, 4)
    nnz = int(weight.count_nonzero())
    apart, together = (FastSparseConv(block).pack_conv(weight) for block in (1, 4))
    assert apart.nnz == together.nnz == nnz == 4 * round(0.1 * 16 * 64)
    dense = FastSparseConv(4).pack_conv(torch.randn(64, 64, 1, 1))  # a dense weight behind a mask would cost this
    assert together.nbytes < 0.25 * dense.nbytes
    assert together.nbytes < apart.nbytes  # one offset for four values


def test_the_break_even_is_the_first_sparsity_from_which_all_are_faster() -> None:
    def measure(weight: torch.Tensor, image: tuple[int, int, int], blocks: tuple[int, ...]) -> dict[str, float]:
        density = float(weight.count_nonzero()) / weight.numel()
        return {"dense": 1.0, **{str(b): 2.3 * density for b in blocks}}

    assert break_even((64, 64), (1, 14, 14), measure=measure) == 0.6
    assert break_even((64, 64), (1, 14, 14), sparsities=(0.1, 0.2), measure=measure) is None
    assert break_even((64, 64), (1, 14, 14), sparsities=(0.9,), measure=lambda *_: {"dense": 1.0, "4": 1.0}) is None


def test_in_a_model_only_1x1_convolutions_change() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.ReLU6()
    ).eval()
    rarefy.prune(net, "magnitude", sparsity=0.8, pattern="block:4x1", ignore=["0", "2"], measure=False)
    x = torch.randn(2, 3, 17, 15)
    made = with_system(net, "fast-sparse-convnets", block=4)
    assert [type(m).__name__ for m in made] == ["Conv2d", "ReLU6", "Conv2d", "SparseConv2d", "ReLU6"]
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(EngineError, match="holds no layer"):
        with_system(nn.Sequential(nn.Conv2d(3, 8, 3)), "fast-sparse-convnets")


def test_blocks_are_1_2_or_4() -> None:
    with pytest.raises(EngineError, match="block=3"):
        FastSparseConv(3)
    assert FastSparseConv(4).fits(torch.zeros(2, 8, 1, 1)) and FastSparseConv().fits(torch.zeros(8, 8, 3, 3))
