"""Really sparse layers beside masked dense ones: results, gradients, and what must not exist."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from needs import needs_native
from rarefy.core.errors import DataError, DTypeError, EngineError, ModelError, ShapeError
from rarefy.ops import Layer
from rarefy.training.runtime import SparseConv2d, SparseLinear, Topology, faster

EPS = 2.0**-23


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_mask(rows, n, density, seed=3):
    return torch.rand(rows, n, generator=torch.Generator().manual_seed(seed)) < density


def near(got, want, terms, size):
    """Within eps (t + 1) of the sum of absolute products, elementwise (float64 both)."""
    error = (got.double() - want.double()).abs()
    assert got.shape == want.shape
    assert bool((error <= EPS * (terms + 1) * size.double() + 1e-30).all()), f"{error.max():.3e}"


def dense_gradients(call, x, weight, bias, grad):
    """Result and gradients in float64, and the same of absolute values: the size of the errors."""
    out = []
    for f in (lambda t: t.detach().double(), lambda t: t.detach().double().abs()):
        x2, w2, b2 = (f(t).requires_grad_() for t in (x, weight, bias))
        y = call(x2, w2, b2)
        y.backward(f(grad))
        out.append((y.detach(), x2.grad, w2.grad, b2.grad))
    return out


@pytest.mark.parametrize(("isa", "threads"), [("scalar", 1), ("avx2", 1), ("avx512", 1), ("", 2)])
@pytest.mark.parametrize("tokens", [0, 1, 7, 16, 33, 64, 130])
@pytest.mark.parametrize(("out", "width", "density"), [(1, 1, 1.0), (37, 53, 0.2), (64, 100, 0.05), (130, 48, 0.0)])
def test_linear_equals_masked_dense(out, width, density, tokens, isa, threads, with_threads, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", isa)
    with_threads(threads)
    mask = random_mask(out, width, density)
    source = nn.Linear(width, out)
    layer = SparseLinear.from_dense(source, mask)
    x, grad = normal(tokens, width).requires_grad_(), normal(tokens, out, seed=1)
    y = layer(x)
    y.backward(grad)
    (want, dx, dw, db), sizes = dense_gradients(F.linear, x, source.weight * mask, source.bias, grad)
    near(y.detach(), want, width, sizes[0])
    near(x.grad, dx, out, sizes[1])
    near(layer.values.grad, dw[mask], tokens, sizes[2][mask])
    near(layer.bias.grad, db, tokens, sizes[3])
    assert layer.values.grad.shape == (int(mask.sum()),)


CONVS = [  # images, in, height, width, out, kernel, stride, padding, dilation, groups
    (3, 4, 8, 8, 6, 3, 1, 1, 1, 1),
    (33, 6, 2, 2, 8, 3, 1, 1, 1, 1),
    (17, 6, 9, 7, 10, 3, 2, 1, 1, 2),
    (5, 16, 6, 6, 12, 1, 1, 0, 1, 1),
    (20, 8, 4, 4, 6, 1, 2, 0, 1, 1),
    (9, 4, 11, 5, 6, 5, 3, 2, 1, 1),
    (4, 6, 4, 4, 6, 3, 1, 2, 2, 3),
    (2, 3, 40, 33, 5, 7, 2, 3, 1, 1),
    (3, 4, 1, 1, 8, 3, 1, 1, 1, 1),
    (8, 4, 3, 3, 4, 2, 4, 1, 1, 4),
    (4, 64, 20, 56, 8, 3, 1, 1, 1, 1),
    (2, 4, 6, 6, 4, 1, 1, 2, 1, 1),
]


@pytest.mark.parametrize("shape", CONVS)
@pytest.mark.parametrize(("isa", "density"), [("scalar", 0.3), ("avx2", 0.3), ("avx512", 0.3), ("", 0.05)])
def test_convolution_equals_masked_dense(shape, isa, density, with_threads, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", isa)
    with_threads(2)
    images, channels, height, width, out, kernel, stride, padding, dilation, groups = shape
    source = nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups)
    mask = random_mask(out, source.weight[0].numel(), density).view_as(source.weight)
    layer = SparseConv2d.from_dense(source, mask)
    x = normal(images, channels, height, width).requires_grad_()
    y = layer(x)
    grad = normal(*y.shape, seed=1)
    y.backward(grad)

    def call(x, w, b):
        return F.conv2d(x, w, b, stride, padding, dilation, groups)

    (want, dx, dw, db), sizes = dense_gradients(call, x, source.weight * mask, source.bias, grad)
    places = images * y.shape[2] * y.shape[3]
    near(y.detach(), want, mask[0].numel(), sizes[0])
    near(x.grad, dx, out * kernel * kernel, sizes[1])
    near(layer.values.grad, dw[mask], places, sizes[2][mask])
    near(layer.bias.grad, db, places, sizes[3])


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("rows", [(4, 4), (2, 2), (1, 8), (8, 1), (4, 1)])
def test_blocks_are_found_and_right(rows, isa, with_threads, monkeypatch):
    monkeypatch.setenv("RAREFY_ISA", isa)
    with_threads(2)
    r, c = rows
    mask = random_mask(48 // r, 64 // c, 0.3).repeat_interleave(r, 0).repeat_interleave(c, 1)
    source = nn.Linear(64, 48)
    layer = SparseLinear.from_dense(source, mask)
    x, grad = normal(70, 64).requires_grad_(), normal(70, 48, seed=1)
    layer(x).backward(grad)
    (_, dx, dw, _), sizes = dense_gradients(F.linear, x, source.weight * mask, source.bias, grad)
    near(x.grad, dx, 48, sizes[1])
    near(layer.values.grad, dw[mask], 70, sizes[2][mask])
    near(layer(x).detach(), F.linear(x.double(), (source.weight * mask).double(), source.bias.double()), 64, sizes[0])


def test_changing_batches_three_dimensions_and_strides():
    mask = random_mask(12, 20, 0.3)
    source = nn.Linear(20, 12)
    layer = SparseLinear.from_dense(source, mask)
    dense = SparseLinear.from_dense(source, mask).to_dense()
    for x in (
        normal(3, 5, 20),
        normal(20, 9).T,
        normal(4, 40)[:, ::2],
        normal(2, 3, 4, 20),
        normal(20),
        normal(0, 3, 20),
    ):
        torch.testing.assert_close(layer(x), dense(x))


def test_x_without_gradient_gets_none_and_no_grad_saves_nothing():
    layer = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3)))
    x = normal(4, 20)
    layer(x).sum().backward()
    assert x.grad is None and layer.values.grad is not None
    with torch.no_grad():
        assert layer(x).grad_fn is None
    layer.values.requires_grad_(False)
    layer.values.grad = None
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and layer.values.grad is None


def test_nothing_dense_is_saved():
    out, width = 256, 512
    layer = SparseLinear(width, out, Topology(random_mask(out, width, 0.05)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        layer(normal(8, width))
    assert sum(saved) == 8 * width + layer.topology.nnz
    assert sum(p.numel() for p in layer.parameters()) == layer.topology.nnz + out
    layer(normal(8, width)).sum().backward()
    kept = 4 * layer.topology.nnz
    state = 4 * kept + layer.topology.nbytes  # weights, gradients, two moments, the index
    assert state <= 0.12 * 4 * 4 * out * width


def test_second_derivatives_are_refused():
    layer = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3)))
    x = normal(4, 20).requires_grad_()
    with pytest.raises(EngineError, match="second derivatives"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)


def test_autocast_computes_in_float32_and_gives_bfloat16():
    layer = SparseLinear(40, 12, Topology(random_mask(12, 40, 0.3)))
    x = normal(4, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x).bfloat16())
    y.float().sum().backward()
    assert layer.values.grad.dtype == torch.float32


def test_bfloat16_weights_train():
    layer = SparseLinear(40, 12, Topology(random_mask(12, 40, 0.3))).bfloat16()
    x = normal(4, 40).bfloat16().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == layer.values.grad.dtype == torch.bfloat16
    with pytest.raises(DTypeError, match="float64"):
        layer(x.double())


def test_editing_between_forward_and_backward_is_refused():
    layer = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3)))
    y = layer(normal(4, 20)).sum()
    free = (~layer.topology.mask).flatten().nonzero().squeeze(1)
    layer.edit(torch.tensor([0]), free[:1])
    with pytest.raises(EngineError, match="between forward and backward"):
        y.backward()


def test_edited_layer_equals_masked_dense_and_keeps_its_parameter():
    layer = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3)))
    values, before = layer.values, layer.dense_weight().detach()
    layer(normal(5, 20)).sum().backward()
    free = (~layer.topology.mask).flatten().nonzero().squeeze(1)
    dropped, grown = torch.tensor([1, 5, 7]), free[[3, 8]]
    gone = layer.topology.positions[dropped]
    move = layer.edit(dropped, grown)
    assert layer.values is values and values.grad is None
    want = before.flatten().clone()
    want[gone] = 0
    assert torch.equal(layer.dense_weight().flatten(), want)
    assert values.numel() == layer.topology.nnz == move.source.numel()
    assert torch.equal(layer.topology.positions[move.source < 0], grown.sort().values)
    x = normal(5, 20)
    torch.testing.assert_close(layer(x), layer.to_dense()(x))


@pytest.mark.parametrize("rows_per_block", [1, 5, 64])
@pytest.mark.parametrize("groups", [1, 2])
def test_watched_dense_gradient_is_that_of_the_dense_layer(rows_per_block, groups):
    source = nn.Conv2d(4, 6, 3, 2, 1, groups=groups)
    mask = random_mask(6, source.weight[0].numel(), 0.3)
    layer = SparseConv2d.from_dense(source, mask)
    dense = layer.to_dense()
    layer.watch()
    for seed in range(2):
        x = normal(3, 4, 7, 8, seed=seed)
        layer(x).square().sum().backward()
        dense(x).square().sum().backward()
    blocks = list(layer.dense_grad_blocks(rows_per_block))
    assert [row for rows, _ in blocks for row in rows] == list(range(6))
    assert max(len(rows) for rows, _ in blocks) <= rows_per_block
    torch.testing.assert_close(torch.cat([block for _, block in blocks]), dense.weight.grad.flatten(1))
    layer.watch(False)
    with pytest.raises(DataError, match="watch"):
        next(layer.dense_grad_blocks())


def test_checkpoint_carries_the_topology():
    layer = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3)))
    other = SparseLinear(20, 12, Topology(random_mask(12, 20, 0.6, seed=9)))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other.dense_weight(), layer.dense_weight())
    broken = dict(layer.state_dict())
    broken["values"] = broken["values"][:-1]
    with pytest.raises(ModelError, match="damaged"):
        other.load_state_dict(broken)
    with pytest.raises(ShapeError, match="rows"):
        SparseLinear(20, 4, Topology(random_mask(4, 20, 0.3))).load_state_dict(layer.state_dict())


def test_copies_and_pickles_are_independent():
    layer = SparseConv2d(4, 6, 3, Topology(random_mask(6, 36, 0.3)), padding=1)
    x = normal(2, 4, 5, 5)
    want = layer(x)
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    layer.edit(torch.arange(4), torch.empty(0, dtype=torch.long))
    for twin in twins:
        assert torch.equal(twin(x), want)


def test_layers_in_a_compiled_model_give_the_same():
    model = nn.Sequential(nn.Linear(8, 20), SparseLinear(20, 12, Topology(random_mask(12, 20, 0.3))), nn.ReLU())
    x = normal(4, 8)
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))


def test_refusals_say_what_to_do():
    topology = Topology(random_mask(12, 20, 0.3))
    with pytest.raises(ShapeError, match=r"\(20, 12\)"):
        SparseLinear(12, 20, topology)
    with pytest.raises(ShapeError, match="last dimension must be 20"):
        SparseLinear(20, 12, topology)(torch.ones(3, 21))
    conv = SparseConv2d(4, 6, 3, Topology(random_mask(6, 36, 0.3)))
    with pytest.raises(ShapeError, match="larger images"):
        conv(torch.ones(1, 4, 2, 2))
    with pytest.raises(ShapeError, match="4, height, width"):
        conv(torch.ones(1, 5, 8, 8))
    with pytest.raises(ModelError, match="reflect"):
        SparseConv2d.from_dense(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), torch.ones(6, 36).bool())


@needs_native  # without kernels there is no such index: torch computes it, for hours
def test_windows_too_large_for_the_index_are_refused():
    conv = SparseConv2d(4, 4, 200, Topology(random_mask(4, 4 * 200 * 200, 1e-4)), padding=2**14, dilation=160)
    with pytest.raises(ValueError, match="keep the layer dense"):
        conv(torch.ones(1, 4, 3, 3))


def test_one_image_without_a_batch():
    conv = SparseConv2d(4, 6, 3, Topology(random_mask(6, 36, 0.3)))
    x = normal(4, 7, 7)
    torch.testing.assert_close(conv(x), conv.to_dense()(x))


def test_two_hundred_steps_agree_with_the_masked_layer():
    """The same losses to rounding, with momentum, over 200 steps."""
    mask = random_mask(16, 24, 0.3)
    sparse = nn.Sequential(SparseLinear.from_dense(nn.Linear(24, 16), mask), nn.Tanh())
    dense = copy.deepcopy(nn.Sequential(sparse[0].to_dense(), nn.Tanh()))
    target = normal(16, 24, seed=5) * mask
    fast, slow = (torch.optim.SGD(m.parameters(), 0.05, momentum=0.9) for m in (sparse, dense))
    first = None
    for step in range(200):
        x = normal(9, 24, seed=step)
        losses = []
        for model, optimizer in ((sparse, fast), (dense, slow)):
            optimizer.zero_grad()
            loss = (model(x) - torch.tanh(x @ target.T)).square().mean()
            loss.backward()
            if model is dense:
                dense[0].weight.grad *= mask
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=2e-4)
        first = first or losses[0]
    assert losses[0] < 0.5 * first


def test_faster_measures_each_question_once():
    layer = Layer(64, (64, 1, 1))
    speed = faster(layer, 32, 0.05, rounds=3)
    assert speed.dense_ms > 0 and speed.sparse_ms > 0 and speed.ratio == speed.dense_ms / speed.sparse_ms
    assert faster(layer, 32, 0.05, rounds=3) is speed


def test_an_edit_may_change_the_count_while_the_last_loss_is_alive() -> None:
    """The graph of the last loss holds the node that collects the gradient, and that node has noted the old count."""
    layer = SparseLinear(8, 4, Topology(torch.eye(4, 8, dtype=torch.bool)))
    loss = layer(torch.ones(2, 8)).sum()
    loss.backward()
    layer.edit(torch.tensor([0]), torch.tensor([1, 2, 3]))
    again = layer(torch.ones(2, 8)).sum()
    again.backward()
    assert layer.values.grad is not None and layer.values.grad.shape == (6,)
    assert bool(loss.isfinite())
