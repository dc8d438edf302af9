"""Convolutional models in 8 bits: what is fused, in which form values lie, and that it is right."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from convnets import Small, fused, modules_of, native_everywhere, prepared
from rarefy.engine.conv_calls import Calls, Step, in_words
from rarefy.engine.conv_region import ConvRegion
from rarefy.engine.conv_scales import note_scales
from rarefy.engine.fuse_conv_region import conv_variants, with_regions
from rarefy.engine.fused_conv import FusedConv2d, FusedConv8, FusedConvPool, MaxPool2d
from rarefy.engine.precision import Precision
from rarefy.ops import Pool, Window, available, pack_conv
from rarefy.ops.conv8 import pack_conv8
from rarefy.ops.words import words_of

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")


EIGHT = Precision("int8", "int8")


def distance(got, wanted):
    return float((got - wanted).detach().norm() / wanted.detach().norm())


def rounded(model):
    """The model with the weights that the kernels store: what is left are the errors of the activations."""
    twin = copy.deepcopy(model)
    convs = twin.stem, twin.conv1, twin.conv2, twin.short
    for conv, norm in zip(convs, (twin.norm0, twin.norm1, twin.norm2, twin.norm3), strict=True):
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None, None, None]
        with torch.no_grad():
            conv.weight.copy_(pack_conv8(conv.weight * factor).to_dense() / factor)
    return twin


@pytest.mark.parametrize("static", [True, False])
def test_a_residual_net_is_one_run_of_8_bit_convolutions(static, monkeypatch):
    model, x = prepared(Small(), density=0.5), torch.randn(3, 3, 29, 37)
    graph, done = fused(model, x, monkeypatch, EIGHT)
    assert sorted(done) == ["conv1", "conv2", "short", "stem"]
    assert (len(modules_of(graph, FusedConv8)), len(modules_of(graph, MaxPool2d))) == (4, 1)
    assert note_scales(graph, [x] if static else []) is None
    assert all((m.to_scale is not None) == static for m in modules_of(graph, FusedConv8))
    variants = conv_variants(graph, 64)
    assert not any("lanes" in name for name in variants)  # images across the lanes are for floats
    run = variants["graph"]
    if static:
        assert all(torch.equal(other(x), run(x)) for other in variants.values())
    (region,) = modules_of(run, ConvRegion)
    assert distance(run(x), rounded(model)(x)) < 0.02
    kinds = [call.kind for call in region._planned([tuple(x.shape)], 1).calls]
    assert kinds.count("to bytes") == (1 if static else 3) and kinds.count("from bytes") == 0
    assert torch.equal(run(x), run(x))
    assert torch.equal(copy.deepcopy(run)(x), run(x))
    once, apart = run(x), with_regions(graph, None, 1, apart=True)
    torch.set_num_threads(2)
    assert torch.equal(apart(x), once)


def test_values_lie_as_words_where_8_bit_convolutions_read_them():
    eight, four = pack_conv8(torch.randn(4, 4, 1, 1)), pack_conv(torch.randn(4, 4, 1, 1))
    convs = [FusedConv8(eight, None, "relu"), MaxPool2d(Pool((2, 2), (2, 2))), FusedConv8(eight, None, "none")]
    convs += [FusedConv2d(four, None, "none"), FusedConv8(eight, None, "none")]
    steps = [Step(0, -1, 1), Step(1, -1, 2), Step(2, -1, 3), Step(2, -1, 4), Step(3, 4, 5)]
    scales = dict.fromkeys(range(6), (0.1, 0))
    assert in_words(convs, steps, scales) == {0, 1, 2, 3}  # 5 is what others get; 4 is only added to 5, floats both
    assert in_words(convs, steps, {0: (0.1, 0), 3: (0.1, 0)}) == {0, 3}
    calls = Calls(False, 1, scales)
    calls.plan([(2, 4, 8, 8)], convs, steps, [5])
    assert [call.kind for call in calls.calls] == ["to bytes", "conv", "pool", "conv", "from bytes", "conv", "conv"]


def test_a_run_gives_what_its_steps_give_one_by_one():
    torch.manual_seed(0)
    weight, bias = torch.randn(6, 5, 3, 3), torch.randn(6)
    window = Window(padding=(1, 1))
    first, second = pack_conv8(weight, window), pack_conv8(torch.randn(6, 6, 3, 3), window)
    convs = [FusedConv8(first, bias, "relu"), FusedConv8(second, None, "relu"), FusedConv8(second, bias, "none")]
    steps = [Step(0, -1, 1), Step(1, 1, 2), Step(2, 1, 3)]
    scales = {0: (0.02, 130), 1: (0.05, 0), 2: (0.2, 0), 3: (0.3, 128)}
    x = torch.randn(2, 5, 7, 9)
    (got,) = ConvRegion(convs, steps, [3], False, scales)(x)
    a = first.convolve(words_of(x, scales[0]), bias, None, "relu", scales[1])
    b = second.convolve(a, None, a, "relu", scales[2])
    assert torch.equal(got, second.convolve(b, bias, a.floats(), "none"))


def test_a_compiled_model_is_right_at_other_sizes(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path))
    native_everywhere(monkeypatch)
    model, types = prepared(Small(), density=0.2), {"weights": "int8", "activations": "int8"}
    data = [torch.randn(4, 3, 64, 64) for _ in range(3)]
    for given in ({"data": data}, {}):
        fast = rarefy.compile(model, torch.randn(4, 3, 64, 64), **types, **given)
        assert any("8-" in row.kernel for row in fast.explain().rows if row.name.startswith("conv"))
        for shape in ((4, 3, 64, 64), (7, 3, 64, 64), (2, 3, 33, 50)):
            x = torch.randn(shape)
            assert distance(fast(x), model(x)) < 0.05


def test_data_of_another_size_leaves_scales_to_the_calls(monkeypatch):
    graph, _ = fused(prepared(Small()), torch.randn(2, 3, 29, 37), monkeypatch, EIGHT)
    assert "size of the example" in note_scales(graph, [torch.randn(2, 3, 40, 40)])
    assert note_scales(graph, [torch.randn(2, 3, 40, 40), torch.randn(5, 3, 29, 37)]) is None
    assert all(m.x_scale is not None for m in modules_of(graph, FusedConv8))


def test_8_bit_kernels_are_not_tried_for_other_types(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path))
    model, x = prepared(Small(), density=0.1), torch.randn(1, 3, 32, 32)
    fast = rarefy.compile(model, x, weights="int8")
    assert not any("conv8" in name for row in fast.explain().rows for name in row.candidates)


def test_a_pool_behind_a_float_convolution_is_still_computed_with_it(monkeypatch):
    graph, _ = fused(prepared(Small()), torch.randn(2, 3, 29, 37), monkeypatch)
    assert len(modules_of(graph, FusedConvPool)) == 1
    assert with_regions(graph) is not None


def test_data_that_is_not_finite_is_refused(monkeypatch):
    class Wild(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.b(F.relu(self.a(x) * float("inf")))

    graph, _ = fused(Wild().eval(), torch.randn(2, 4, 5, 5), monkeypatch, EIGHT)
    with pytest.raises(rarefy.core.errors.DataError, match="not finite"):
        note_scales(graph, [torch.randn(2, 4, 5, 5)])
