"""Every kind of bad input: an error that says what to do, and a model that is bit for bit as it was."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from contracts.examples import make
from contracts.models import bert, convnet, perceptron
from contracts.test_every_method import FOUND
from rarefy.core.errors import (
    DataError,
    EvidenceError,
    ModelError,
    RarefyError,
    ShapeError,
    SparsityError,
    UnknownNameError,
    WeightError,
)
from rarefy.core.registry import Entry
from rarefy.pruning import prune
from rarefy.pruning.resolve import resolve_allocation

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


def refused(error: type[RarefyError], why: str, model: nn.Module | None = None, **call: Any) -> str:
    """Calls prune, expects the error, and checks that no weight and no hook is different after."""
    model = perceptron().model if model is None else model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    call = {"method": "magnitude", "sparsity": 0.5} | call
    with pytest.raises(error, match=why) as caught:
        prune(model, call.pop("method"), **call)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return str(caught.value)


@pytest.mark.parametrize("sparsity", [1.0, 1, -0.2, math.nan, math.inf])
def test_sparsity_out_of_range(sparsity: float) -> None:
    refused(SparsityError, r"outside \[0, 1\)", sparsity=sparsity)


def test_sparsity_in_percent_is_translated() -> None:
    refused(SparsityError, r"did you mean 0\.7\?", sparsity=70)


def test_sparsity_missing() -> None:
    refused(SparsityError, r"sparsity: missing.*sparsity=0\.7", sparsity=None)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        ({"method": "sparse-gpt"}, "method: 'sparse-gpt' is not registered; did you mean 'sparsegpt'"),
        ({"method": "wnada"}, "did you mean 'wanda'"),
        ({"pattern": "2;4"}, "pattern: '2;4' is not registered; did you mean '2:4'"),
        ({"pattern": "blok:4x1"}, "did you mean 'block:4x1'"),
        ({"allocation": "unifrom"}, "allocation: 'unifrom' is not registered; did you mean 'uniform'"),
        ({"allocation": "ERK"}, "did you mean.*'erk'"),
        ({"damping": 0.1}, r"magnitude: has no option 'damping'; it has \['allocation', 'pattern'\]"),
    ],
)
def test_unknown_names_come_with_the_nearest(call: dict[str, Any], why: str) -> None:
    refused(UnknownNameError, why, **call)


@pytest.mark.parametrize("pattern", ["2:4", "4:8"])
def test_another_sparsity_than_the_patterns(pattern: str) -> None:
    refused(SparsityError, f"0.7 contradicts {pattern}", pattern=pattern, sparsity=0.7)


def test_an_allocation_cannot_spread_the_one_density_of_a_pattern() -> None:
    refused(SparsityError, "2:4 has one density, ErdosRenyi cannot spread it", pattern="2:4", allocation="erk")


@pytest.mark.parametrize(
    ("pattern", "layer"), [("2:4", "depthwise"), ("4:8", "stem"), ("block:4x1", "depthwise"), ("block:1x8", "stem")]
)
def test_a_pattern_that_does_not_divide_a_layer_names_it(pattern: str, layer: str) -> None:
    said = refused(ShapeError, f"^{layer}: {pattern} needs multiples", convnet().model, pattern=pattern)
    assert f"ignore=['{layer}']" in said


METHODS_WITH_DATA = ["wanda", "sparsegpt", "reconstruction"]


@pytest.mark.parametrize("method", METHODS_WITH_DATA)
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "needs calibration data; give data="),
        ([], "data is empty"),
        (iter(()), "data is empty"),
        (X, r"data is one Tensor.*data=\[batch\]"),
        ({"input": X}, "data is one dict"),
        ([X[:, :5]], r"data\[0\]: Sequential does not take this batch \{'input': \(8, 5\)\}"),
        ([X, X[:, :5]], r"data\[1\]: (Sequential|Linear) does not take this batch"),
        ([X * math.nan], r"data\[0\] input holds NaN"),
        ([X, X / 0.0], r"data\[1\] input holds NaN or infinity"),
        ([X[:0]], "no element"),
        ([{"wrong": X}], r"data\[0\]: Sequential does not take this batch"),
    ],
)
def test_data_that_cannot_be_used(method: str, data: Any, why: str) -> None:
    refused(DataError, why, method=method, data=data)


def test_data_for_an_allocation_is_asked_for_too() -> None:
    refused(DataError, "magnitude: needs calibration data", allocation="owl")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("method", ["magnitude", *METHODS_WITH_DATA])
def test_weights_that_are_not_finite_are_named(method: str, bad: float) -> None:
    model = perceptron().model
    with torch.no_grad():
        model[4].weight[3, 5] = bad
    refused(WeightError, r"4: weight\[3, 5\] is -?(nan|inf); repair the model", model, method=method, data=[X])


def test_a_bad_layer_may_be_left_alone() -> None:
    model = perceptron().model
    with torch.no_grad():
        model[4].weight[3, 5] = math.nan
    report = prune(model, "magnitude", sparsity=0.5, ignore=["4"])
    assert report.skipped == {"4": "ignored as asked"}
    assert report.sparsity == pytest.approx(0.5)


@pytest.mark.parametrize("model", [nn.Sequential(nn.ReLU()), nn.Embedding(4, 4), nn.Sequential(), nn.LSTM(4, 4)])
def test_a_model_without_a_prunable_layer_is_an_error(model: nn.Module) -> None:
    refused(ModelError, "no prunable layer.*nothing was changed", model)


def test_ignoring_everything_is_an_error() -> None:
    refused(ModelError, "all 3 are ignored; nothing was changed", ignore=["*"])


def test_an_ignore_that_matches_nothing_is_an_error() -> None:
    refused(ModelError, "ignore: 'lm_head' matches no prunable layer; the layers are", ignore=["lm_head"])


class Spare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.spare, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x))


def looks_at(entry: Entry, *, loss: bool) -> bool:
    """Whether the method needs inputs of layers, or (loss) gradients of the model."""
    needs = make(entry).solver.needs | resolve_allocation(None, make(entry)).needs
    return any(need.of_the_model if loss else need.of_the_inputs for need in needs)


INPUTS, GRADIENTS = ([e.id for e in FOUND if looks_at(e, loss=loss)] for loss in (False, True))
NEITHER = [e.id for e in FOUND if e.id not in INPUTS + GRADIENTS]


def mean_square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


@pytest.mark.parametrize("method", INPUTS)
def test_a_layer_that_the_data_never_reach_is_named(method: str) -> None:
    why = "^spare: no calibration batch reaches this layer"
    refused(DataError, why, Spare(), method=method, data=[X], loss=mean_square)


@pytest.mark.parametrize("method", GRADIENTS)
def test_a_layer_that_no_gradient_reaches_is_named_or_pruned_first(method: str) -> None:
    """A layer that the loss does not depend on has no gradient, which is zero: all of it may go, or it is named."""
    model = Spare()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = ""
    try:
        prune(model, method, sparsity=0.5, data=[X], loss=mean_square)
    except DataError as error:
        said = str(error)
    if said:
        assert "spare" in said
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    else:
        weights = [m.weight for m in (model.first, model.spare, model.last)]
        assert sum(int((w == 0).sum()) for w in weights) == pytest.approx(0.5 * sum(w.numel() for w in weights), abs=36)
        assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("method", NEITHER)
def test_without_need_for_data_an_unreached_layer_is_pruned(method: str) -> None:
    assert {site.name for site in prune(Spare(), method, sparsity=0.5).sites} == {"first", "spare", "last"}


@pytest.mark.parametrize("entry", FOUND, ids=[e.id for e in FOUND])
def test_every_method_needs_a_layer_to_prune(entry: Entry) -> None:
    call = {"data": [X], "loss": mean_square, "sparsity": 0.5}
    refused(ModelError, "no prunable layer.*nothing was changed", nn.Sequential(nn.ReLU()), method=entry.id, **call)


def test_a_loss_is_asked_for_where_gradients_are_needed() -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from rarefy.core.evidence import Need
    from rarefy.pruning import OneShot
    from rarefy.solvers.scored import Scored

    @dataclass(frozen=True)
    class Taylor:
        needs: ClassVar[frozenset[Need]] = frozenset({Need.GRADIENT})

        def __call__(self, weight: torch.Tensor, evidence: Any) -> torch.Tensor:
            return (weight * evidence[Need.GRADIENT]).abs()

    method = OneShot(Scored(Taylor()))
    refused(DataError, "loss: GRADIENT take a backward pass; give loss=", method=method, data=[X])
    refused(DataError, "needs calibration data", method=method)
    model = perceptron().model
    report = prune(model, method, sparsity=0.5, data=[X], loss=lambda m, b: m(b).square().mean())
    assert report.sparsity == pytest.approx(0.5)


def test_a_need_that_is_not_declared_is_an_error_that_names_it() -> None:
    from dataclasses import dataclass
    from typing import ClassVar

    from rarefy.core.evidence import Need
    from rarefy.pruning import OneShot
    from rarefy.solvers.scored import Scored

    @dataclass(frozen=True)
    class Sly:
        needs: ClassVar[frozenset[Need]] = frozenset()

        def __call__(self, weight: torch.Tensor, evidence: Any) -> torch.Tensor:
            return weight * evidence[Need.INPUT_SQNORM]

    refused(EvidenceError, "^0: evidence INPUT_SQNORM .* was not collected", method=OneShot(Scored(Sly())), data=[X])


@pytest.mark.parametrize("make", [lambda: 5, lambda: "wanda", lambda: None])
def test_things_that_are_no_method_pattern_or_allocation(make: Callable[[], Any]) -> None:
    from rarefy.patterns.unstructured import Layerwise
    from rarefy.pruning.one_shot import OneShot
    from rarefy.pruning.resolve import resolve_allocation, resolve_pattern
    from rarefy.scores.magnitude import Magnitude
    from rarefy.solvers.scored import Scored

    one_shot = OneShot(Scored(Magnitude()))
    if make() is not None:
        with pytest.raises(UnknownNameError):
            resolve_pattern(make(), Layerwise())
        with pytest.raises(UnknownNameError):
            resolve_allocation(make(), one_shot)


def test_an_encoder_given_tokens_beyond_its_vocabulary() -> None:
    case = bert()
    batch = {"input_ids": torch.full((2, 5), 999), "attention_mask": torch.ones(2, 5, dtype=torch.long)}
    refused(
        DataError,
        r"data\[0\]: BertModel does not take this batch.*IndexError",
        case.model,
        method="wanda",
        data=[batch],
    )
