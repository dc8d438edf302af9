"""Options that make no sense are refused where they are given, with what was given and what would do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from activations.tiny import llama, text
from rarefy.activations.chess import Chess
from rarefy.activations.deft import Deft
from rarefy.activations.fatrelu import FATReLU
from rarefy.activations.images.corematching import CoreMatching
from rarefy.activations.images.semi_structured import SemiStructured
from rarefy.activations.penalty import L1, ActivationPenalty, SmoothCount
from rarefy.activations.prompt_neurons import select_by_prompt
from rarefy.activations.prosparse import ProSparse
from rarefy.activations.q_sparse import QSparse
from rarefy.activations.relufication import Relufication
from rarefy.activations.turbo_sparse_drelu import DReLU
from rarefy.activations.wina import Wina
from rarefy.core.errors import ModelError, RarefyError, ShapeError, SparsityError, UnknownNameError
from rarefy.schedules.cosine import Cosine
from rarefy.selectors import Threshold, TopK, detach, input_selector, select_inputs
from rarefy.selectors.attach import attached
from transformers_tiny import ids, tiny

NAN, INF = float("nan"), float("inf")


def unchecked(kind: Any, **given: Any) -> None:
    """Made as it is where no checker of types stands before the class, as here in the tests."""
    made = object.__new__(kind)
    for name, value in given.items():
        object.__setattr__(made, name, value)
    made.__post_init__()


WRONG: dict[str, tuple[Callable[[], object], type[RarefyError], str]] = {
    "attention": (lambda: Chess(attention=("foo",)), UnknownNameError, "attention has 'foo'; give a tuple"),
    "attention in letters": (
        lambda: unchecked(Chess, attention="q"),
        UnknownNameError,
        "attention has 'q'; give",
    ),
    "settle": (lambda: Chess(settle=-1), SparsityError, "settle: -1"),
    "block": (lambda: QSparse(0.5, block=0), SparsityError, "block=0 inputs; give 1 or more"),
    "alpha": (lambda: Deft(alpha=NAN), SparsityError, "alpha nan"),
    "alpha without end": (lambda: Deft(alpha=INF), SparsityError, "alpha inf"),
    "beta": (lambda: SmoothCount(NAN), SparsityError, "beta nan"),
    "threshold": (lambda: FATReLU(NAN), SparsityError, "threshold nan"),
    "weight": (lambda: ActivationPenalty(llama(), L1(), -1.0), SparsityError, "weight -1.0"),
    "weight of a schedule": (
        lambda: ActivationPenalty(llama(), L1(), Cosine(-0.5, 1.0, 10)),
        SparsityError,
        r"weight -0\.5 at step 0 of Cosine\(initial=-0\.5",
    ),
    "freeze before the end": (
        lambda: SemiStructured(begin=2, end=9, freeze=4),
        SparsityError,
        "begin 2, end 9, freeze 4 are steps out of order; give 0 <= begin < end <= freeze",
    ),
    "begin before the first step": (lambda: SemiStructured(begin=-1), SparsityError, "begin -1, end 1"),
    "end before begin": (lambda: SemiStructured(begin=5, end=3), SparsityError, "begin 5, end 3"),
    "weights": (lambda: ProSparse(ends=(5, 8), weights=(-1, 2)), SparsityError, "weights .-1, 2. of the L1"),
    "k": (lambda: unchecked(TopK, k=2.5), SparsityError, "k is 2.5"),
    "number": (lambda: unchecked(Threshold, threshold=0.5), ShapeError, "give a tensor"),
}


@pytest.mark.parametrize("case", WRONG)
def test_they_are_refused(case: str) -> None:
    make, error, match = WRONG[case]
    with pytest.raises(error, match=match):
        make()


NOTHING_LEFT: dict[str, Callable[[nn.Module], object]] = {
    str(name): lambda model, name=name: rarefy.sparsify_activations(model, name, sparsity=0.995, data=[text()])
    for name in ("larosa", Wina(allocation="uniform"), "lazy-neuron-topk")
}
NOTHING_LEFT["q-sparse"] = lambda model: QSparse(0.995).apply(model)
NOTHING_LEFT["blocks of q-sparse"] = lambda model: QSparse(0.995, block=16).apply(model)
NOTHING_LEFT["prompt"] = lambda model: select_by_prompt(model, [text(1)], sparsity=0.995)


@pytest.mark.parametrize("way", NOTHING_LEFT)
def test_a_share_that_keeps_nothing_is_refused_and_the_model_is_as_it_was(way: str) -> None:
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SparsityError, match=r"0\.995 keeps none of the \d+ (inputs|neurons) of model\.layers\.0"):
        NOTHING_LEFT[way](model)
    assert not list(attached(model))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("apply", [Relufication().apply, DReLU().apply, QSparse().apply])
def test_another_activation_does_not_take_a_selector_away(apply: Callable[[nn.Module], object]) -> None:
    model = llama()
    report = rarefy.sparsify_activations(model, "cats", sparsity=0.5, data=[text()])
    count = len(list(attached(model)))
    assert count == len(report.sites)
    with pytest.raises(ModelError, match=r"model\.layers\.0\.mlp has a selector already; call detach"):
        apply(model)
    assert len(list(attached(model))) == count
    detach(model)
    apply(model)


def test_a_selector_keeps_no_more_than_a_layer_has() -> None:
    layer = nn.Linear(4, 3)
    with pytest.raises(ShapeError, match="keeps 9 inputs, Linear has 4"):
        select_inputs(layer, TopK(9))
    assert input_selector(layer) is None
    select_inputs(layer, TopK(4))


def test_counts_ask_for_numbers() -> None:
    with pytest.raises(SparsityError, match="above=nan"):
        rarefy.activation_stats(llama(), [text()], above=NAN)
    with pytest.raises(SparsityError, match="batches has 0"):
        rarefy.activation_stats(llama(), [text()], batches=(1, 0, -3))


def test_a_name_that_matches_no_convolution_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    with pytest.raises(ModelError, match="'zz' matches no Conv2d"):
        SemiStructured().attach(net, torch.randn(1, 3, 8, 8), ignore=["zz"])
    assert list(SemiStructured().attach(net, torch.randn(1, 3, 8, 8), ignore="0").masks) == ["2"]


def test_a_model_that_reads_both_ways_has_no_prompt_to_go_on_from() -> None:
    with pytest.raises(ModelError, match="BertModel generates no text"):
        CoreMatching(layer=0).read(tiny("Bert"), torch.arange(12) < 6, input_ids=ids(1))


def test_methods_of_other_doors_say_where_theirs_is() -> None:
    for name, way in (("deja-vu", r"deja_vu\.DejaVu\(\.\.\.\)\.apply"), ("deft", r"Deft\(\.\.\.\)\.attach")):
        with pytest.raises(UnknownNameError, match=way):
            rarefy.sparsify_activations(llama(), name, sparsity=0.5, data=[text()])


def test_a_schedule_that_falls_below_zero_later_is_refused_at_that_step() -> None:
    penalty = ActivationPenalty(llama(), L1(), Cosine(1.0, -1.0, 2))
    penalty.step()
    assert penalty.weight == pytest.approx(0.0)
    penalty.step()
    with pytest.raises(SparsityError, match=r"weight -1\.0 at step 2 of Cosine.*give 0 for plain training"):
        _ = penalty.weight
