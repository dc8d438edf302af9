"""Convolutional models: what is fused, that it is right, and that whole models run."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rarefy
from convnets import Small, fused, modules_of, prepared
from rarefy.engine import conv_across, conv_plan, conv_times
from rarefy.engine.capture import capture
from rarefy.engine.conv_memory import FLOATS, Value, place
from rarefy.engine.conv_region import ConvRegion
from rarefy.engine.fuse_conv import fuse_convs
from rarefy.engine.fuse_conv_region import conv_variants, with_regions
from rarefy.engine.fused_conv import FusedConv2d, FusedConvPool
from rarefy.ops import PackedConv, Window, available, native
from rarefy.ops.conv_across import lanes

pytestmark = pytest.mark.skipif(not available(), reason="the native module is not built")


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (nn.ReLU(), "relu"),
        (nn.ReLU6(), "relu6"),
        (nn.SiLU(), "silu"),
        (nn.Hardswish(), "hardswish"),
        (nn.GELU(), "gelu"),
        (nn.Tanh(), "none"),
    ],
)
def test_norm_addition_and_activation_are_computed_by_the_kernel(end, name, monkeypatch):
    model, x = prepared(Small(end)), torch.randn(3, 3, 29, 37)
    graph, done = fused(model, x, monkeypatch)
    assert sorted(done) == ["conv1", "conv2", "short", "stem"]
    left = [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
    assert not any(word in op for op in left for word in ("conv", "batch_norm", "add", "max_pool"))
    assert (len(modules_of(graph, FusedConv2d)), len(modules_of(graph, FusedConvPool))) == (3, 1)
    assert name in {m.activation for m in modules_of(graph, FusedConv2d)}
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_norm_behind_a_convolution_that_stays_dense_is_folded(monkeypatch):
    model, x = prepared(Small()), torch.randn(2, 3, 29, 37)
    graph = capture(model, ((x,), {}))
    assert fuse_convs(graph, {}, {}) == []
    assert "batch_norm" not in str(graph.graph)
    graph.recompile()
    torch.testing.assert_close(graph(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "alike"),
    [
        ("same", 3, 1, True),
        ("same", (5, 1), (1, 3), True),
        ("same", 4, 2, True),
        ("valid", 3, 2, True),
        ("same", 4, 1, False),
        ("same", (3, 2), 1, False),
    ],
)
def test_padding_by_name_is_native_where_both_sides_are_alike(padding, kernel, dilation, alike):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, padding=padding, dilation=dilation)
    model = nn.Sequential(conv, nn.BatchNorm2d(12), nn.ReLU()).eval()
    rarefy.prune(model, "magnitude", sparsity=0.9, measure=False)
    fast = rarefy.compile(model, torch.randn(2, 8, 19, 23), measure=False)
    (row,) = fast.explain().rows
    assert (row.kernel != "dense") is alike
    assert ("not of zeros on both sides alike" in row.reason) is not alike
    x = torch.randn(3, 8, 14, 17)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


class Shared(nn.Module):
    """A result that is read twice, a sum that broadcasts, a norm in training mode: none may be swallowed."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x):
        y = self.a(x)
        return F.relu(y) + y, F.relu(self.b(x) + self.scale), self.b(x) - x


def test_what_others_read_stays(monkeypatch):
    model, x = prepared(Shared()), torch.randn(2, 4, 9, 9)
    graph, _ = fused(model, x, monkeypatch)
    assert {m.activation for m in modules_of(graph, FusedConv2d)} == {"none"}
    for mine, theirs in zip(graph(x), model(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_regions_side_by_side_and_across_give_the_same(batch, monkeypatch):
    model, x = prepared(Small()), torch.randn(lanes(), 3, 29, 37)
    graph, _ = fused(model, x, monkeypatch)
    variants = conv_variants(graph, lanes())
    few = {f"graph, {n} images at a time" for n in (1, 4)} if lanes() >= 8 else set()
    assert set(variants) == {"graph", "graph, images across lanes", *few}
    x = torch.randn(batch, 3, 29, 37)
    for run in variants.values():
        assert len(modules_of(run, ConvRegion)) == 1
        for _ in range(2):  # the second call uses the memory of the first
            torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


def region_of(run):
    (region,) = modules_of(run, ConvRegion)
    return region


@pytest.mark.parametrize("batch", [1, 2, 17])
def test_dense_convolutions_and_their_pooling_are_filtered_across(batch, monkeypatch):
    model, x = prepared(Small(), density=1.0), torch.randn(lanes(), 3, 29, 37)
    graph, _ = fused(model, x, monkeypatch)
    run = conv_variants(graph, lanes())["graph, images across lanes"]
    names = [m.packed.kernel.split("-")[0] for m in region_of(run).modules() if isinstance(m, FusedConv2d)]
    assert sorted(names) == ["conv", "conv", "winograd", "winograd"]  # of the latter the stem, which pools, and conv2
    assert [m.conv.packed.across for m in region_of(run).modules() if isinstance(m, FusedConvPool)] == [True]
    x = torch.randn(batch, 3, 29, 37)
    for _ in range(2):
        torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(run)(x), run(x))


def test_pooling_stays_side_by_side_where_that_is_faster(monkeypatch):
    model, x = prepared(Small(), density=1.0), torch.randn(lanes(), 3, 29, 37)
    graph, _ = fused(model, x, monkeypatch)
    asked = []

    def pretend(kind, weight, window, image, names, measure):
        asked.append((kind.split()[1], set(measure()), set(names)))
        return {"dense": 1.0} | dict.fromkeys(names, 2.0 if kind.startswith("conv and") else 0.5), "pretended"

    monkeypatch.setattr(conv_times, "known_times", pretend)
    run = conv_variants(graph, lanes())["graph, images across lanes"]
    assert [m.conv.packed.across for m in region_of(run).modules() if isinstance(m, FusedConvPool)] == [False]
    assert [measured - {"dense"} == names for kind, measured, names in asked] == [True] * 4
    assert [kind for kind, *_ in asked].count("and") == 1
    torch.testing.assert_close(run(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_few_images_are_not_put_across(monkeypatch):
    graph, _ = fused(prepared(Small()), torch.randn(1, 3, 29, 37), monkeypatch)
    assert set(conv_variants(graph, 1)) == {"graph"}


def test_a_region_can_be_copied_after_it_ran(monkeypatch):
    model, x = prepared(Small()), torch.randn(2, 3, 29, 37)
    run = with_regions(fused(model, x, monkeypatch)[0])
    first = run(x)
    twin = copy.deepcopy(run)
    del run
    assert torch.equal(twin(x), first)


def test_threads_have_memory_of_their_own(monkeypatch):
    model, x = prepared(Small()), torch.randn(2, 3, 29, 37)
    run = with_regions(fused(model, x, monkeypatch)[0])
    assert_right_at_once(run, [torch.randn(2, 3, 29, 37) for _ in range(4)])


def assert_right_at_once(run, inputs):
    """Four threads call at once, each with an input of its own."""
    wanted, wrong = [run(x) for x in inputs], []

    def work(i):
        for _ in range(50):
            if not torch.equal(run(inputs[i]), wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_values_that_live_together_do_not_overlap():
    sizes = [(3, False, -1, 0), (4, True, 0, 2), (8, True, 1, 2), (2, True, 2, 4), (9, True, 3, 4), (1, True, 4, 5)]
    values = [Value((1, n, 5, 5), FLOATS, own, made, last) for n, own, made, last in sizes]
    offsets, nbytes = place(values)
    assert offsets[0] is None
    own = [(v, at) for v, at in zip(values, offsets, strict=True) if at is not None]
    for i, (a, at_a) in enumerate(own):
        for b, at_b in own[:i]:
            together = a.made <= b.last and b.made <= a.last
            apart = at_a + a.nbytes <= at_b or at_b + b.nbytes <= at_a
            assert apart or not together
    assert nbytes < sum(v.nbytes for v, _ in own)


def test_a_compiled_model_is_right_at_other_sizes_and_explains_its_convolutions(tmp_path, monkeypatch):
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path))
    model = prepared(Small(), density=0.05)
    fast = rarefy.compile(model, [torch.randn(1, 3, 64, 64), torch.randn(16, 3, 64, 64)])
    for shape in ((1, 3, 64, 64), (16, 3, 64, 64), (5, 3, 64, 64), (2, 3, 33, 50)):
        x = torch.randn(shape)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-3, atol=1e-4)
    rows = {row.name: row for row in fast.explain().rows}
    assert {"stem", "conv1", "conv2", "short"} <= set(rows)
    assert all(row.candidates and row.dense_ms for row in rows.values() if row.name != "head")


def test_nothing_is_timed_when_that_is_asked(monkeypatch):
    def refuse(*_):
        raise AssertionError("timed")

    monkeypatch.setattr(conv_times, "time_conv", refuse)
    model, x = prepared(Small(), density=0.05), torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(rarefy.compile(model, x, measure=False)(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("across", [False, True])
def test_timed_kernels_write_where_they_wrote_before(across, monkeypatch):
    weight, window, written = torch.randn(8, 4, 3, 3), Window(padding=(1, 1)), []
    place, name = (conv_across, "convolve_across") if across else (PackedConv, "convolve")
    convolve = getattr(place, name)

    def note(*given):
        written.append(given[5])
        return convolve(*given)

    monkeypatch.setattr(place, name, note)
    if across:
        conv_across.time_across(weight, window, (16, 9, 9))
    else:
        conv_times.time_conv(weight, window, (2, 9, 9), conv_plan.candidates_of(weight, window, eight=False))
    assert len(written) > 10
    assert all(out is written[0] for out in written)


def test_hugging_face_classifiers(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("RAREFY_CACHE_DIR", str(tmp_path))
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    )
    mobile = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(depth_multiplier=0.35))
    for model in (resnet, mobile):
        prepared(model, density=0.3)
        x = torch.randn(2, 3, 64, 64)
        fast = rarefy.compile(model, {"pixel_values": x})
        assert not [note for note in fast.explain().notes if "is not used" in note]
        torch.testing.assert_close(fast(pixel_values=x).logits, model(pixel_values=x).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("each", [1, 2, 3])
@pytest.mark.parametrize("end", [nn.ReLU(), nn.GELU()])
def test_images_on_threads_of_their_own_give_the_bits_of_one_thread(each, end, monkeypatch):
    model, x = prepared(Small(end)), torch.randn(4, 3, 29, 37)
    graph, _ = fused(model, x, monkeypatch)
    whole, run = with_regions(graph), with_regions(graph, None, each, apart=True)
    for batch in (1, 2, 3, 7, 16):
        x = torch.randn(batch, 3, 29, 37)
        torch.set_num_threads(1)
        wanted = whole(x)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for _ in range(2):  # the second call uses the memory of the first
                assert torch.equal(run(x), wanted)


def test_every_thread_takes_images(monkeypatch):
    model, x = prepared(Small()), torch.randn(4, 3, 29, 37)
    region = region_of(with_regions(fused(model, x, monkeypatch)[0], None, 2, apart=True))
    for threads, batch, each in ((2, 8, 2), (2, 3, 2), (2, 2, 1), (2, 1, 0), (3, 2, 0), (1, 5, 2), (1, 2, 0)):
        torch.set_num_threads(threads)
        assert region._each([torch.empty(batch, 3, 29, 37)]) == each, (threads, batch)
        region._plans.clear()
        region(torch.randn(batch, 3, 29, 37))
        sizes = {each, batch % each or each} if each else {batch}
        assert set(region._plans) == {(1 if each else threads, (n, 3, 29, 37)) for n in sizes}


def test_a_profile_of_images_on_threads_adds_them_up(monkeypatch):
    model, x = prepared(Small()), torch.randn(5, 3, 29, 37)
    run = with_regions(fused(model, x, monkeypatch)[0], None, 2, apart=True)
    torch.set_num_threads(2)
    outs, steps = region_of(run).profile(x)
    _, once = region_of(with_regions(fused(model, x, monkeypatch)[0])).profile(x)
    assert torch.equal(outs[0], region_of(run)(x)[0])
    assert len(steps) == 3 * len(once) and all(step.ms > 0 for step in steps)


def test_several_callers_of_images_on_threads(monkeypatch):
    torch.set_num_threads(2)
    model, x = prepared(Small()), torch.randn(4, 3, 29, 37)
    run = with_regions(fused(model, x, monkeypatch)[0], None, 1, apart=True)
    assert_right_at_once(run, [torch.randn(3 + i, 3, 29, 37) for i in range(4)])


def test_images_on_threads_are_timed_where_every_thread_gets_some(monkeypatch):
    model, x = prepared(Small()), torch.randn(4, 3, 29, 37)
    graph, _ = fused(model, x, monkeypatch)
    for threads, batch, sizes in ((1, 16, set()), (2, 3, set()), (2, 4, {1}), (2, 8, {1, 2}), (4, 8, {1})):
        torch.set_num_threads(threads)
        found = {name for name in conv_variants(graph, batch) if name.endswith("each thread")}
        assert found == {f"graph, {n} images at a time on each thread" for n in sizes}


def test_what_a_call_raises_is_raised_and_the_others_are_made():
    module, made = native.module(), []

    def call(i):
        made.append(i)
        if i == 3:
            raise KeyError("three")

    for threads in (1, 2, 4):
        made.clear()
        with pytest.raises(KeyError, match="three"):
            module.for_each(7, threads, call)
        assert sorted(made) == list(range(7))
    module.for_each(0, 2, call)
