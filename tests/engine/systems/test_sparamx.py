"""The catalogued check but for the clock, which `benchmarks/engine/systems.py` reads; and the pruned cache."""

import pytest
import torch
from torch import nn

import rarefy
from rarefy.core.errors import EngineError, ShapeError
from rarefy.core.quantized import quantize_weight
from rarefy.engine import with_system
from rarefy.engine.systems.sparamx import SparAMX
from rarefy.engine.systems.sparamx_cache import compress
from rarefy.ops import available, kernels

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")
SHAPES = ((1, 1), (16, 32), (37, 100), (65, 31), (128, 257))
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def sparse(out: int, width: int, density: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(out + width)
    return torch.randn(out, width, generator=generator) * (torch.rand(out, width, generator=generator) < density)


@pytest.mark.parametrize("tokens", [1, 32])
@pytest.mark.parametrize("weights", list(BYTES))
def test_the_round_trip_is_exact(weights: str, tokens: int) -> None:
    for out, width in SHAPES:
        weight = sparse(out, width)
        stored = {"fp32": weight, "bf16": weight.bfloat16().float(), "int8": quantize_weight(weight, 8).dequantize()}
        packed = SparAMX(weights, tokens).pack(weight)
        assert torch.equal(packed.to_dense(), stored[weights])
        assert packed.nnz == int(stored[weights].count_nonzero())


@pytest.mark.parametrize("weights", list(BYTES))
def test_bytes_are_a_bit_an_entry_the_non_zeros_and_the_offsets(weights: str) -> None:
    for out, width in ((16, 64), (64, 256), (256, 128)):
        packed = SparAMX(weights).pack(sparse(out, width))
        rows = 8 * out if weights == "int8" else 0
        expected = out * width / 8 + packed.nnz * BYTES[weights] + 8 * (out // 16 + 1) + rows
        assert packed.nbytes == pytest.approx(expected, abs=4)
        assert packed.nbytes < 4 * out * width / 2


@pytest.mark.parametrize("tokens", [1, 5, 32])
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_products_are_those_of_the_masked_weight(weights: str, tokens: int) -> None:
    for out, width in SHAPES:
        weight, x = sparse(out, width), torch.randn(tokens, width)
        packed = SparAMX(weights, tokens).pack(weight)
        want = x.double() @ packed.to_dense().double().T
        rounded = next(k.activations for k in kernels() if k.name == packed.kernel) == "bf16"
        bound = 2.0**-8 * (x.double().abs() @ weight.double().abs().T) + 1e-6 if rounded else 1e-4
        assert ((packed.multiply(x, None, "none") - want).abs() <= bound).all()


def test_a_model_runs_with_it_by_name() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(70, 90), nn.SiLU(), nn.Linear(90, 33)).eval()
    rarefy.prune(net, "magnitude", sparsity=0.6, measure=False)
    made, x = with_system(net, "sparamx", weights="fp32", tokens=1), torch.randn(1, 70)
    torch.testing.assert_close(made(x), net(x), rtol=1e-4, atol=1e-4)
    assert all("bitmask" in made[i].plan.at(1).kernel for i in (0, 2))
    with pytest.raises(EngineError, match="weights='fp64'"):
        with_system(net, "sparamx", weights="fp64")


def _dense_attention(query, keys, values):
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    scores = torch.einsum("bhd,bhtd->bht", query, keys) * query.shape[-1] ** -0.5
    return torch.einsum("bht,bhtd->bhd", scores.softmax(-1), values)


def test_pruned_keys_and_values_attend_like_dense_ones_with_zeros() -> None:
    torch.manual_seed(0)
    keys, values, query = torch.randn(2, 2, 45, 24), torch.randn(2, 2, 45, 24), torch.randn(2, 6, 24)
    new = torch.randn(2, 2, 2, 3, 24)
    cache = compress(keys, values, key_sparsity=0.3, value_sparsity=0.5, weights="fp32")
    k, v = (
        torch.stack([torch.stack([p.to_dense() for p in text]) for text in part]) for part in (cache.keys, cache.values)
    )
    v = v.transpose(2, 3)
    for pruned, whole, share in ((k, keys, 0.7), (v, values, 0.5)):
        assert (pruned.flatten(2).count_nonzero(2) == round(share * 45 * 24)).all()
        gone = pruned == 0
        assert torch.equal(pruned[~gone], whole[~gone])
        assert whole.abs()[gone].max() <= pruned.abs()[~gone].max()
    want = _dense_attention(query, torch.cat([k, new[0]], 2), torch.cat([v, new[1]], 2))
    torch.testing.assert_close(cache.attend(query, new[0], new[1]), want, rtol=1e-4, atol=1e-5)
    none = new[:, :, :, :0]
    torch.testing.assert_close(
        cache.attend(query, none[0], none[1]), _dense_attention(query, k, v), rtol=1e-4, atol=1e-5
    )


def test_a_pruned_cache_is_smaller_and_near_the_whole_one() -> None:
    torch.manual_seed(1)
    keys, values, query = torch.randn(1, 4, 512, 64), torch.randn(1, 4, 512, 64), torch.randn(1, 4, 64)
    cache = compress(keys, values)
    assert cache.nbytes < 0.8 * 2 * (keys.numel() + values.numel())  # of bfloat16
    none = torch.empty(1, 4, 0, 64)
    got, want = cache.attend(query, none, none), _dense_attention(query, keys, values)
    assert float(torch.nn.functional.cosine_similarity(got, want, dim=-1).min()) > 0.8
    with pytest.raises(ShapeError, match="do not belong"):
        cache.attend(torch.randn(1, 3, 64), none, none)
    with pytest.raises(ShapeError, match="one shape"):
        compress(keys, values[:, :, :5])
