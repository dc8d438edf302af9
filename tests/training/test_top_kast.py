"""Top-KAST: two nested sets, the rest untouched, and a way in for weights outside the forward set."""

import pytest
import torch

import rarefy
from contracts.impostor import assert_beats_impostor
from rarefy.core.errors import SparsityError
from rarefy.training.method import SparseMethod
from rarefy.training.static import static
from rarefy.training.top_kast import ForwardBackward, backward_set, top_kast
from training.loops import adam, mlp, sgd, start, train


def test_the_sets_are_nested_and_exact() -> None:
    task = mlp()
    trainer, _ = start(task, "top-kast", sparsity=0.9, extra=0.2, every=4, total_steps=40)
    for _ in train(task, trainer, 40):
        for state in trainer.run.states:
            backward = state.extra["backward"]
            assert bool((backward | ~state.mask).all())
            assert abs(float(backward.float().mean()) - 0.3) < 1e-3
            assert state.kept == state.count


def test_the_backward_set_takes_the_largest_of_the_others() -> None:
    weight = torch.tensor([[9.0, 1.0, 8.0, 2.0, 7.0, 3.0, 0.5, 0.25]])
    forward = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]]).bool()  # not the largest, but given
    assert backward_set(weight, forward, 0.5).int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1]]
    assert torch.equal(backward_set(weight, forward, 0.1), forward)


def test_outside_the_backward_set_nothing_moves_whatever_the_momentum() -> None:
    task = mlp()
    trainer, _ = start(task, "top-kast", sgd, sparsity=0.9, extra=0.1, every=3, total_steps=40)
    for step in range(9):
        state = trainer.run.states[1]
        before, inside = state.value().clone(), state.extra["backward"].clone()
        list(train(task, trainer, 1, step))
        assert torch.equal(before[~inside], state.value()[~inside])
        assert float((before[inside] != state.value()[inside]).float().mean()) > 0.9


def test_exploration_pays_one_over_the_density() -> None:
    trainer, _ = start(mlp(), "top-kast", sparsity=0.75, extra=0.25, every=3, decay=0.5)
    state = trainer.run.states[1]
    value, zero = state.value(), torch.zeros(state.weight.shape)
    push = ForwardBackward(0.5).on_grad(zero, value, state)
    only_backward = state.extra["backward"] & ~state.mask
    assert torch.allclose(push[state.mask], 0.5 * value[state.mask])
    assert torch.allclose(push[only_backward], 0.5 / 0.25 * value[only_backward])
    assert bool((push[~state.extra["backward"]] == 0).all())


def lets_weights_in(method: SparseMethod) -> None:
    task = mlp()
    trainer = rarefy.sparse_training(task.model, adam(task.model), method, sparsity=0.9, total_steps=40)
    first = trainer.run.states[1].mask.clone()
    list(train(task, trainer, 40))
    assert int((trainer.run.states[1].mask & ~first).sum()) > 10


def test_weights_outside_the_forward_set_find_a_way_in() -> None:
    assert_beats_impostor(lets_weights_in, top_kast(every=4), static(start="magnitude"))


def test_after_the_end_both_sets_are_one_and_stay() -> None:
    task = mlp()
    trainer, _ = start(task, "top-kast", sparsity=0.9, every=4, end=0.5, total_steps=40)
    list(train(task, trainer, 20))
    state = trainer.run.states[1]
    first = state.mask.clone()
    assert torch.equal(state.extra["backward"], first)
    list(train(task, trainer, 20, 20))
    assert torch.equal(state.mask, first) and torch.equal(state.extra["backward"], first)


def test_bad_options_are_refused() -> None:
    with pytest.raises(SparsityError, match="is negative"):
        top_kast(extra=-0.1)
    with pytest.raises(SparsityError, match="no share of the steps"):
        top_kast(end=0.0)


def test_the_backward_set_of_a_layer_that_is_nearly_dense_is_all_of_it() -> None:
    """ERK leaves small layers whole; what lies beyond them has nothing to add."""
    task = mlp()
    trainer, _ = start(task, "top-kast", sparsity=0.5, allocation="erk")
    list(train(task, trainer, 3))
    assert any(bool(state.extra["backward"].all()) for state in trainer.run.states)


def test_what_leaves_the_backward_set_is_forgotten_and_what_stays_within_goes_on() -> None:
    task, entered, moved = mlp(), 0, 0
    trainer, optimizer = start(task, "top-kast", sparsity=0.9, extra=0.02, every=3, total_steps=100, end=0.8)
    state = trainer.run.states[1]
    was, mask = state.extra["backward"].clone(), state.mask.clone()
    for _ in train(task, trainer, 100):
        now, memory = state.extra["backward"], optimizer.state[state.weight.parameter]["exp_avg"]
        assert bool((memory[now & ~was] == 0).all()) and bool((memory[~now] == 0).all())
        within = state.mask & ~mask & was
        assert bool((memory[within] != 0).all())
        entered, moved = entered + int((now & ~was).sum()), moved + int(within.sum())
        was, mask = now.clone(), state.mask.clone()
    assert entered > 20 and moved > 20
