"""The catalogued check but for the clock, which `benchmarks/engine/systems.py` reads."""

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.quantized import QuantizedWeight
from rarefy.core.registry import lookup
from rarefy.engine import with_system
from rarefy.engine.systems.intel_sparse_vnni import SparseVnni
from rarefy.ops import available
from rarefy.patterns.block import Block

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")


def codes(out: int, width: int, sparsity: float, seed: int = 0) -> Tensor:
    """Random int8 in 4x1 blocks, both extremes among them; rows behind the last whole strip are left alone."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-127, 128, (out, width), generator=generator).to(torch.int8)
    whole = out // 4 * 4
    mask = Block(4, 1).select(torch.rand(whole, width, generator=generator), 1.0 - sparsity)
    values[:whole] *= mask
    return values


def products(values: Tensor, x: Tensor) -> Tensor:
    """What the kernel makes of bytes with scales of 1 and no zero point: the integer sums, exact in float32."""
    packed = SparseVnni().pack(QuantizedWeight(values, torch.ones(values.shape[0], 1)))
    out = torch.empty(x.shape[0], values.shape[0])
    one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    packed.layout.multiply8(
        x.data_ptr(), x.shape[0], one.data_ptr(), zero.data_ptr(), 0, 0, 0, out.data_ptr(), 0.0, 0, 0, 1
    )
    return out


@pytest.mark.parametrize("sparsity", [0.0, 0.7, 0.8, 0.9])
def test_sums_are_the_dense_integer_product_exactly(sparsity: float) -> None:
    for out, width, tokens in ((4, 4, 1), (8, 5, 3), (30, 67, 17), (64, 128, 64), (65, 257, 70), (128, 256, 33)):
        values = codes(out, width, sparsity, seed=out)
        x = torch.randint(0, 256, (tokens, width), generator=torch.Generator().manual_seed(width)).to(torch.uint8)
        assert torch.equal(products(values, x).long(), x.long() @ values.long().T)


def test_only_blocks_are_stored() -> None:
    sizes = [SparseVnni().pack(QuantizedWeight(codes(256, 256, s), torch.ones(256, 1))).nbytes for s in (0.0, 0.7, 0.9)]
    assert sizes[0] > 2.5 * sizes[1] > 5 * sizes[2]  # a dense product behind a mask stores the same for all


def test_weights_of_another_pattern_are_left_alone_and_said() -> None:
    scattered = torch.randn(64, 64) * (torch.rand(64, 64) < 0.1)
    assert "block:4x1" in str(SparseVnni().fits(scattered))
    assert SparseVnni().fits(torch.randn(64, 64)) is None
    assert "4-bit" in str(SparseVnni().fits(QuantizedWeight(torch.ones(4, 4, dtype=torch.int8), torch.ones(4, 1), 4)))


def test_a_model_runs_with_it_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 32)).eval()
    rarefy.prune(net, "magnitude", sparsity=0.8, pattern="block:4x1", measure=False)
    made, x = with_system(net, "intel-sparse-vnni"), torch.randn(40, 64)
    got, want = made(x).detach(), net(x).detach()
    assert float((got - want).norm() / want.norm()) < 0.03  # of 8-bit weights and inputs
    assert "strip" in made[0].plan.at(40).kernel
    assert lookup("kernel", "intel-sparse-vnni").family == "engine"
