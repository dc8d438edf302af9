"""The door: what every training-free method promises of any model, batch and share, and what it refuses."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import rarefy
from rarefy.activations.job import Placed
from rarefy.activations.measure import measured
from rarefy.activations.rank_aware import RankAware
from rarefy.calibration.batches import call_model
from rarefy.core.errors import DataError, ModelError, SparsityError, UnknownNameError
from rarefy.core.registry import entries, load_all
from rarefy.selectors import TopK, detach, feed_forwards, input_selector, paused, projections, select_inputs
from rarefy.selectors.attach import attached
from transformers_tiny import PARTS, ids, output, tiny

load_all()
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "teal": ("teal", {"step": 0.25}),
    "teal uniform": ("teal", {"allocation": "uniform"}),
    "teal top-k": ("teal", {"allocation": "uniform", "form": "top-k"}),
    "wina": ("wina", {"allocation": "uniform"}),
    "wina threshold": ("wina", {"allocation": "uniform", "form": "threshold"}),
    "wina rotated": ("wina", {"allocation": "uniform", "rotate": True}),
    "cats": ("cats", {}),
    "chess": ("chess", {}),
    "larosa": ("larosa", {}),
    "r-sparse": ("r-sparse", {"rho": 0.8}),
    "lazy-neuron-topk": ("lazy-neuron-topk", {}),
}
EVERY = pytest.mark.parametrize("case", CASES)
THRESHOLDS = ("teal", "teal uniform", "wina threshold", "cats", "chess", "r-sparse")
COUNTS = ("teal top-k", "wina", "wina rotated", "larosa", "lazy-neuron-topk")


def batches(count: int = 4, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": ids(4, 40, seed * 100 + i)} for i in range(count)]


def sparse(model: nn.Module, case: str, sparsity: float, **more: Any) -> rarefy.activations.report.ActivationReport:
    name, options = CASES[case]
    given: dict[str, Any] = {"data": batches(2), "trial_tokens": 80} | options | more
    return rarefy.sparsify_activations(model, name, sparsity=sparsity, **given)


def test_every_registered_method_has_a_case() -> None:
    known = {e.id for e in entries("selector") if "method" in e.protocols and e.family == "activations"}
    assert {name for name, _ in CASES.values()} <= known


@EVERY
def test_sparsity_0_is_the_dense_model(case: str) -> None:
    model = tiny("Llama")
    dense = output(model, ids())
    sparse(model, case, 0.0, **({"rho": 1.0} if case == "r-sparse" else {}))
    assert torch.allclose(output(model, ids()), dense, atol=1e-5)


@EVERY
def test_only_zeros_are_added_and_detach_gives_the_dense_function_back(case: str) -> None:
    model = tiny("Llama")
    dense = output(model, ids())
    sparse(model, case, 0.5)
    changed = (output(model, ids()) - dense).abs().max()
    with paused(model):
        assert torch.allclose(output(model, ids()), dense, atol=1e-5), "rotations leave the dense function unchanged"
    assert changed > 1e-4
    assert detach(model) and torch.allclose(output(model, ids()), dense, atol=1e-5)


@pytest.mark.parametrize("case", COUNTS)
def test_counts_are_exact_for_every_token(case: str) -> None:
    model = tiny("Llama")
    report = sparse(model, case, 0.6, held_out=batches(1, seed=9))
    for site in report.sites:
        width = 64 if "down" in site.name or site.side == "hidden" else 32
        assert site.k == round(0.4 * width) and site.measured == site.held_out == pytest.approx(1 - site.k / width)
    for _, _, selector in attached(model):
        assert isinstance(selector, TopK)


@pytest.mark.parametrize("case", THRESHOLDS)
def test_shares_hold_on_text_that_was_not_seen_within_sampling_error(case: str) -> None:
    """Tokens of a row are alike, so the error is that of the mean of rows: calibrated on 16, measured on 16 others."""
    model = tiny("Llama")
    report = sparse(model, case, 0.5, data=batches())
    by_row = [held_out(model, [{"input_ids": ids(1, 40, 700 + row)}]) for row in range(16)]
    for site in report.sites:
        shares = torch.tensor([row[f"{site.name} {site.side}"] for row in by_row])
        error = float(shares.std()) / 4.0 * 2**0.5
        assert error < 0.04 and abs(float(shares.mean()) - site.asked) < 4 * error + 0.005, site
        assert site.measured == pytest.approx(site.asked, abs=0.02 if site.side == "input" else 0.03)
        assert site.k is None and site.threshold is not None
    assert report.tokens == 640 and set(report.block_errors) == {0, 1}


def held_out(model: nn.Module, text: list[dict[str, torch.Tensor]]) -> dict[str, float]:
    placed = []
    for name, module, selector in attached(model):
        side = "input" if input_selector(module) is not None else "hidden"
        name = name.removesuffix(".act_fn")
        placed.append(Placed(name, side, module, selector, 0.0, ()))
    return measured(model, placed, text, call_model)


@EVERY
def test_a_token_does_not_see_the_others_of_its_batch(case: str) -> None:
    model = tiny("Llama")
    sparse(model, case, 0.5)
    together = output(model, ids(3, 7))
    alone = torch.cat([output(model, row[None]) for row in ids(3, 7)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("case", ["teal", "larosa", "r-sparse"])
def test_the_same_call_gives_the_same_selectors(case: str) -> None:
    found = []
    for _ in range(2):
        model = tiny("Llama")
        sparse(model, case, 0.5, seed=3)
        found.append(output(model, ids()))
        torch.randn(5)
    assert torch.equal(found[0], found[1])


CLASSES = [(kind, method) for kind in PARTS if kind != "Llama" for method in ("teal", "cats")]


@pytest.mark.parametrize(("kind", "method"), [*CLASSES, ("GPT2", "r-sparse"), ("OPT", "r-sparse"), ("GPT2", "wina")])
def test_every_class_of_transformers(kind: str, method: str) -> None:
    model = tiny(kind)
    options = {"allocation": "uniform"} if method in ("teal", "wina") else {}
    options = {"rho": 0.8} if method == "r-sparse" else options
    report = rarefy.sparsify_activations(model, method, sparsity=0.4, data=batches(2), **options)
    assert len(report.sites) == (2 if method in ("cats", "lazy-neuron-topk") else len(projections(model)))
    assert 0.02 < report.sparsity < 0.5 and output(model, ids()).isfinite().all()


@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3", "Mistral"])
@pytest.mark.parametrize("method", ["larosa", "wina"])
def test_bases_turn_in_every_class_that_has_rms_norms(kind: str, method: str) -> None:
    model = tiny(kind)
    for module in model.modules():  # gains and biases that are not what they start as
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() == 1:
                with torch.no_grad():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            assert name
    dense = output(model, ids())
    more = {"rotate": True, "allocation": "uniform"} if method == "wina" else {}
    report = rarefy.sparsify_activations(model, method, sparsity=0.0, data=batches(1), **more)
    assert torch.allclose(output(model, ids()), dense, atol=1e-4)
    assert sum(site.size for site in report.sites) == report.weights and report.added >= 3 * 32 * 32


def test_bases_do_not_turn_where_that_is_not_the_same_function() -> None:
    for kind in ("OPT", "GPT2", "Bert"):
        with pytest.raises(ModelError, match="its basis cannot be turned"):
            rarefy.sparsify_activations(tiny(kind), "larosa", sparsity=0.5, data=batches(1))
    model = tiny("Llama")
    sparse(model, "larosa", 0.5)
    detach(model)
    with pytest.raises(ModelError, match="turned already"):
        sparse(model, "larosa", 0.5)


@pytest.mark.parametrize("case", ["teal uniform", "wina", "cats", "r-sparse"])
def test_pruned_weights_stay_pruned_and_meet_only_the_selected_inputs(case: str) -> None:
    model = tiny("Llama")
    rarefy.prune(model, "magnitude", sparsity=0.6, ignore=["lm_head"])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sparse(model, case, 0.5)
    after = model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    detach(model)
    with pytest.raises(ModelError, match=r"6\d% zeros, which turning the basis would undo"):
        rarefy.sparsify_activations(model, "larosa", sparsity=0.5, data=batches(1))


def test_rounded_weights_are_not_turned() -> None:
    model = tiny("Llama")
    rarefy.prune(
        model, "magnitude", sparsity=0.0, ignore=["lm_head"], data=batches(1), quantize=rarefy.QuantizeSpec(bits=8)
    )
    with pytest.raises(ModelError, match="rounded to integers"):
        rarefy.sparsify_activations(model, "larosa", sparsity=0.5, data=batches(1))
    assert sparse(model, "teal uniform", 0.5).sparsity == pytest.approx(0.5, abs=0.01)


def test_ignored_places_stay_dense_and_are_counted_as_read() -> None:
    model = tiny("Llama")
    report = sparse(model, "teal uniform", 0.5, ignore=["*.0.*", "down_proj"])
    assert {site.name for site in report.sites} == {
        p.name for p in projections(model) if p.block == 1 and p.part != "down"
    }
    assert report.sparsity < 0.25
    with pytest.raises(ModelError, match="'nothing' matches no projection"):
        sparse(tiny("Llama"), "teal", 0.5, ignore=["nothing"])
    with pytest.raises(ModelError, match="leaves none"):
        sparse(tiny("Llama"), "teal", 0.5, ignore=["*"])


def test_bad_input_is_refused_before_anything_is_attached() -> None:
    model = tiny("Llama")
    for sparsity in (1.0, -0.1, 50):
        with pytest.raises(SparsityError, match="outside"):
            sparse(model, "teal", sparsity)
    with pytest.raises(DataError, match="needs calibration data"):
        rarefy.sparsify_activations(model, "teal", sparsity=0.5)
    for name in ("teal", "cats", "chess", "r-sparse"):
        with pytest.raises(DataError, match=r"10 tokens are too few for the 0\.7\d* quantile, which takes \d\d;"):
            rarefy.sparsify_activations(model, name, sparsity=0.7, data=[ids(1, 10)], **CASES[name][1])
    with pytest.raises(UnknownNameError, match="did you mean 'teal'"):
        sparse_unknown(model, "teel")
    with pytest.raises(UnknownNameError, match="has no option 'steps'"):
        sparse_unknown(model, "teal", steps=3)
    with pytest.raises(UnknownNameError, match="neither 'greedy' nor 'uniform'"):
        sparse_unknown(model, "teal", allocation="best")
    with pytest.raises(ModelError, match="no feed-forward layer is known"):
        sparse_unknown(nn.Sequential(nn.Linear(3, 3)), "teal")
    with pytest.raises(ModelError, match="has no gate"):
        sparse_unknown(tiny("OPT"), "chess")
    assert not list(attached(model)) and not any(isinstance(m, RankAware) for m in model.modules())


def sparse_unknown(model: nn.Module, method: str, **options: Any) -> None:
    rarefy.sparsify_activations(model, method, sparsity=0.5, data=batches(1), **options)


def test_a_second_call_and_a_model_on_two_devices_are_refused() -> None:
    model = tiny("Llama")
    sparse(model, "cats", 0.5)
    with pytest.raises(ModelError, match=r"act_fn: has a selector already; call rarefy\.selectors\.detach"):
        sparse(model, "teal", 0.5)
    mixed = tiny("Llama")
    mixed.get_submodule("model.norm").to("meta")
    with pytest.raises(ModelError, match="lie on cpu, meta; load it onto one device"):
        sparse(mixed, "teal", 0.5)


def test_the_report_says_what_it_must(capsys: pytest.CaptureFixture[str]) -> None:
    report = sparse(tiny("Llama"), "chess", 0.5, held_out=batches(1))
    assert "chess: 6 places, asked 50.0%" in str(report) and "held-out" in str(report)
    assert '"block_errors"' in report.to_json() and report.held_out is not None
    hidden = [site for site in report.sites if site.side == "hidden"]
    assert len(hidden) == 2 and hidden[0].size == 2 * 32 * 64


def test_an_error_in_the_middle_leaves_no_trace() -> None:
    model = tiny("Llama")
    layer = feed_forwards(model)[0].up

    class Breaks:
        def __call__(self, job: Any) -> list[Placed]:
            select_inputs(layer, TopK(1))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        rarefy.sparsify_activations(model, Breaks(), sparsity=0.5, data=batches(1))
    assert input_selector(layer) is None


def names(report: Any) -> set[str]:
    return {site.name.rsplit(".", 1)[-1] for site in report.sites}


def test_an_ignored_feed_forward_layer_is_dense_whatever_would_be_selected() -> None:
    report = sparse(tiny("Llama"), "teal uniform", 0.5, ignore=["*.mlp"])
    assert names(report) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert names(sparse(tiny("Llama"), "chess", 0.5, ignore=["*.mlp"])) == {"q_proj", "o_proj"}
    assert names(sparse(tiny("OPT"), "teal uniform", 0.5, ignore=["*.layers.[01]"])) == {
        "q_proj", "k_proj", "v_proj", "out_proj"
    }  # fmt: skip


def test_an_ignored_projection_sees_all_of_its_inputs() -> None:
    for kind, ignored, left in (("Llama", "0.mlp.down_proj", 1), ("Llama", "1.mlp.up_proj", 1), ("OPT", "0.fc2", 1)):
        model = tiny(kind)
        report = sparse(model, "cats", 0.5, ignore=["*." + ignored])
        assert len(report.sites) == left and f".{1 - int(ignored[0])}" in report.sites[0].name
    for kind, ignored in (("Llama", "gate_proj"), ("OPT", "fc1")):  # of these no column and no row is left out
        assert len(sparse(tiny(kind), "cats", 0.5, ignore=[ignored]).sites) == 2


@EVERY
def test_nothing_left_to_select_is_an_error_and_changes_nothing(case: str) -> None:
    model = tiny("Llama")
    before = snapshot(model)
    kept = ["*.mlp"] if CASES[case][0] in ("cats", "lazy-neuron-topk") else ["*_proj"]
    more = {"attention": ()} if case == "chess" else {}
    with pytest.raises(ModelError, match=r"ignore:? leaves no"):
        sparse(model, case, 0.5, ignore=kept, **more)
    assert_as_it_was(model, before)


def snapshot(model: nn.Module) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """(state, what every module is and which hooks it has)."""
    seen = [
        (name, module, *module._forward_hooks, *module._forward_pre_hooks) for name, module in model.named_modules()
    ]
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}, seen


def assert_as_it_was(model: nn.Module, before: tuple[dict[str, torch.Tensor], list[Any]]) -> None:
    state, seen = snapshot(model)
    assert seen == before[1] and state.keys() == before[0].keys()
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in state.items())


ALTERING = pytest.mark.parametrize("case", ["larosa", "wina rotated", "r-sparse"])


@ALTERING
def test_wrong_options_are_refused_before_weights_change(case: str) -> None:
    for wrong, error in (({"allocation": "foo"}, UnknownNameError), ({"allocation": {"x": 0.5}}, UnknownNameError)):
        model = tiny("Llama")
        before = snapshot(model)
        with pytest.raises(error, match="allocation: "):
            sparse(model, case, 0.5, **wrong)
        assert_as_it_was(model, before)
    with pytest.raises(SparsityError, match="step: 0 is outside"):
        sparse(model, case, 0.5, allocation="greedy", step=0)
    if case != "larosa":
        with pytest.raises(SparsityError, match="settle: -1 is how often"):
            sparse(model, case, 0.5, settle=-1)
    assert_as_it_was(model, before)
    sparse(model, case, 0.5)


@ALTERING
def test_a_failure_after_weights_changed_takes_the_change_back(case: str) -> None:
    model = tiny("Llama")
    before = snapshot(model)
    with pytest.raises(DataError, match=r"held_out\[1\]: LlamaForCausalLM does not take this batch"):
        sparse(model, case, 0.5, held_out=[*batches(1), {"input_ids": torch.full((1, 8), 999)}])
    assert_as_it_was(model, before)
    sparse(model, case, 0.5)


def test_held_out_is_named_as_it_was_given() -> None:
    with pytest.raises(DataError, match=r"held_out is one Tensor.*held_out="):
        sparse(tiny("Llama"), "cats", 0.5, held_out=ids())
    with pytest.raises(DataError, match=r"held_out\[0\] input_ids has shape"):
        sparse(tiny("Llama"), "cats", 0.5, held_out=[{"input_ids": ids()[:0]}])


def test_a_copy_computes_the_same() -> None:
    for case in ("r-sparse", "larosa"):
        model = tiny("Llama")
        sparse(model, case, 0.5)
        assert torch.equal(output(copy.deepcopy(model), ids()), output(model, ids()))
