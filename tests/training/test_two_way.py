"""N:M in two products: the masks, the gradients that autograd really gives, and the way back to plain layers."""

import warnings

import pytest
import torch
from torch import nn

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import ModelError, ShapeError, SparsityError
from rarefy.patterns.nm import NM
from rarefy.patterns.transposable import Transposable
from rarefy.patterns.unstructured import Layerwise
from rarefy.training.bdwp import bdwp, sparse_products
from rarefy.training.bi_mask import backward_mask, best_order, bi_mask
from rarefy.training.method import SparseMethod
from rarefy.training.sr_ste import ste
from rarefy.training.transposable_ste import transposable_ste
from rarefy.training.two_way import TwoWayConv2d, TwoWayLinear, one_way
from training.loops import convnet, mlp, recurrent, sgd, start, train


def kept_along(weight: torch.Tensor, axis: int, m: int) -> int:
    """The most entries that are not zero in a group of m along an axis of (out, in)."""
    matrix = (weight != 0).t() if axis == 0 else weight != 0
    return int(matrix.reshape(-1, m).sum(1).max())


def both_directions(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, sgd(task.model), method, total_steps=20)
    list(train(task, trainer, 5))
    layer, state = task.model[2], trainer.run.states[1]
    assert isinstance(layer, TwoWayLinear)
    forward, dense = layer.weight.detach(), state.value()
    x = torch.randn(8, 64, requires_grad=True)
    dy = torch.randn(8, 64)
    layer(x).backward(dy)
    assert torch.allclose(x.grad, dy @ layer.backward_weight, atol=1e-5)
    assert torch.allclose(layer.weight.grad, dy.t() @ x.detach(), atol=1e-4)
    assert kept_along(forward, 1, 8) == 2 and kept_along(forward, 0, 8) > 2
    back = layer.backward_weight
    assert kept_along(back, 0, 8) == 2
    assert torch.equal(back[back != 0], dense[back != 0])


def test_bdwp_has_both_masks_and_exact_products() -> None:
    assert_beats_impostor(both_directions, bdwp(pattern=NM(2, 8)), ste(pattern=NM(2, 8)))


def test_bdwp_keeps_the_largest_along_outputs_and_is_not_inside_the_forward_mask() -> None:
    task = mlp()
    trainer, _ = start(task, "bdwp", sgd, pattern="2:4")
    dense, back = trainer.run.states[1].value(), task.model[2].backward_weight
    expected = NM(2, 4).select(dense.abs().t().contiguous(), 0.5).t()
    assert torch.equal(back != 0, expected)
    assert bool((expected & ~trainer.run.states[1].mask).any())
    assert sparse_products(NM(2, 8)) == 0.5


@pytest.mark.parametrize("name", ["bdwp", "bi-mask"])
def test_convolutions_too(name: str) -> None:
    task = convnet()
    trainer, _ = start(task, name, sgd, pattern="2:4", every=4)
    list(train(task, trainer, 3))
    layer = task.model[3]
    assert isinstance(layer, TwoWayConv2d) and layer.stride == (2, 2)
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    y = layer(x)
    dy = torch.randn_like(y)
    y.backward(dy)
    mine, weight_grad = x.grad.clone(), layer.weight.grad.clone()
    z = x.detach().clone().requires_grad_(True)
    (dx,) = torch.autograd.grad(nn.functional.conv2d(z, layer.backward_weight, None, 2, 1), z, dy)
    weight = layer.weight.detach().clone().requires_grad_(True)
    (dw,) = torch.autograd.grad(nn.functional.conv2d(z, weight, None, 2, 1), weight, dy)
    assert torch.allclose(mine, dx, atol=1e-5) and torch.allclose(weight_grad, dw, atol=1e-3)
    assert kept_along(layer.backward_weight.flatten(1), 0, 4) <= 2
    with torch.no_grad():
        assert torch.equal(layer(x), nn.Conv2d.forward(layer, x))


def inside_and_permuted(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, sgd(task.model), method, total_steps=40)
    list(train(task, trainer, 10))
    state, layer = trainer.run.states[1], task.model[2]
    dense, order = state.value(), state.extra.get("order", torch.arange(64))
    assert torch.equal(state.mask, NM(2, 4).select(dense.abs(), 0.5))  # the best forward mask of every row
    back = layer.backward_weight if isinstance(layer, TwoWayLinear) else layer.weight.detach()
    assert bool(((back != 0) <= state.mask).all())
    assert kept_along(back[order], 0, 4) <= 2
    assert int((back != 0).sum()) > 0.6 * state.kept


def test_bi_mask_is_the_best_forward_mask_and_n_of_m_backward() -> None:
    assert_beats_impostor(inside_and_permuted, bi_mask(every=5, candidates=20), transposable_ste())
    assert_beats_impostor(inside_and_permuted, bi_mask(every=5, candidates=20), ste())


def test_the_order_is_the_best_of_the_candidates() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 8, generator=generator)
    forward = NM(2, 4).select(weight.abs(), 0.5)
    orders = [torch.arange(16), *(torch.randperm(16, generator=generator) for _ in range(50))]
    counts = [int(backward_mask(weight, forward, order, NM(2, 4)).sum()) for order in orders]
    found = best_order(weight, forward, orders, NM(2, 4))
    assert int(backward_mask(weight, forward, found, NM(2, 4)).sum()) == max(counts) > counts[0]


def test_a_searched_order_gives_input_gradients_closer_to_those_of_the_forward_weight() -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(64, 64, generator=generator)
    forward = NM(2, 4).select(weight.abs(), 0.5)
    orders = [torch.arange(64), *(torch.randperm(64, generator=generator) for _ in range(100))]
    dy = torch.randn(32, 64, generator=generator)
    exact = dy @ (weight * forward)

    def cosine(order: torch.Tensor) -> float:
        other = dy @ (weight * backward_mask(weight, forward, order, NM(2, 4)))
        return float(nn.functional.cosine_similarity(exact.flatten(), other.flatten(), dim=0))

    assert cosine(best_order(weight, forward, orders, NM(2, 4))) > cosine(orders[0])


def transposed_too(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, sgd(task.model), method, total_steps=20)
    masks = []
    for _ in train(task, trainer, 20):
        mask = trainer.run.states[1].mask
        assert Transposable(2, 4).allows(mask)
        masks.append(mask.clone())
    assert not torch.equal(masks[0], masks[-1])


def test_transposable_masks_hold_in_both_directions_and_move() -> None:
    assert_beats_impostor(transposed_too, transposable_ste(every=4), ste())


@pytest.mark.parametrize("name", ["bdwp", "bi-mask"])
def test_layers_in_which_the_second_mask_cannot_act_are_named(name: str) -> None:
    reflected = convnet()
    reflected.model[3].padding_mode = "reflect"
    for task, names in ((recurrent(), "rnn.weight_ih_l0, rnn.weight_hh_l0"), (reflected, "so 3 would go back")):
        with pytest.warns(UserWarning, match=names):
            start(task, name, sgd, pattern="2:4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start(mlp(), name, sgd, pattern="2:4")
        start(recurrent(), name, sgd, pattern="2:4", ignore=["rnn"])
    with pytest.raises(ModelError, match="no layer is left for the method"):
        start(recurrent(), name, sgd, pattern="2:4", ignore=["head"])


def test_layers_become_ordinary_again() -> None:
    task = mlp()
    trainer, _ = start(task, "bdwp", sgd, pattern="2:4")
    names = list(task.model.state_dict())
    expected = task.model(torch.ones(1, 16))
    trainer.detach()
    assert one_way(task.model) == ["0", "2", "4"]
    assert all(type(m) is nn.Linear for m in (task.model[0], task.model[2], task.model[4]))
    assert list(task.model.state_dict()) == names and not list(task.model.buffers())
    assert torch.equal(task.model(torch.ones(1, 16)), expected)


@pytest.mark.parametrize("make", [bdwp, bi_mask])
def test_other_patterns_are_refused(make: type) -> None:
    with pytest.raises(ShapeError, match="is not N:M"):
        make(pattern=Layerwise())


def test_a_bi_mask_without_steps_between_searches_is_refused() -> None:
    with pytest.raises(SparsityError, match="at least one step"):
        bi_mask(every=0)


@pytest.mark.parametrize("name", ["bdwp", "bi-mask"])
def test_a_single_sample_without_a_batch_trains_as_a_batch_of_one(name: str) -> None:
    x, found = torch.randn(16, generator=torch.Generator().manual_seed(0)), []
    for one in (x, x[None]):
        task = mlp()
        start(task, name, sgd, pattern="2:4")
        task.model(one).square().sum().backward()
        found.append([p.grad.clone() for p in task.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
