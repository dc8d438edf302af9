"""Pruned and rounded in one call, saved, loaded and compiled: the same integers all the way."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rarefy
from rarefy.core.errors import SparsityError
from rarefy.core.grid import QuantizeSpec, codes_of, grid_of
from rarefy.core.quantized import QuantizedWeight
from rarefy.engine.precision import Precision
from rarefy.engine.sparse_linear import SparseLinear
from rarefy.ops import available, candidates
from rarefy.recipes.store import load, save

SPECS = [QuantizeSpec(8), QuantizeSpec(4, 16), QuantizeSpec(4, 64), QuantizeSpec(4)]


@pytest.fixture
def packs(prefer: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer is packed, for the first kernel of its types, and the compiled model runs layer by layer."""
    prefer("layers")

    def times(weight: Tensor, bias: Any, tokens: int, names: Any = None, *, precision: Precision, **_: Any) -> Any:
        names = candidates(weight, tokens, precision.weights, precision.activations) if names is None else names
        return {"dense": 2.0, **dict.fromkeys(names, 1.0)}

    monkeypatch.setattr(importlib.import_module("rarefy.engine.plan"), "time_layer", times)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 64)).eval()


def rounded(spec: QuantizeSpec, sparsity: float = 0.5, **options: Any) -> nn.Module:
    model = net()
    batches = [torch.randn(64, 128, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    rarefy.prune(model, "sparsegpt", sparsity=sparsity, data=batches, quantize=spec, measure=False, **options)
    return model


def integers(model: nn.Module) -> dict[str, QuantizedWeight]:
    found = {name: codes_of(m) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name: codes for name, codes in found.items() if codes is not None}


def same(a: dict[str, QuantizedWeight], b: dict[str, QuantizedWeight]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[n].values, b[n].values) and torch.equal(a[n].scale, b[n].scale) and a[n].bits == b[n].bits
        for n in a
    )


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_file_gives_back_the_integers_and_the_very_weights(spec: QuantizeSpec, tmp_path: Path) -> None:
    model = rounded(spec)
    report = save(model, tmp_path)
    assert {t.encoding for t in report.pruned} == {f"int{spec.bits}"} and len(report.pruned) == 2
    assert report.pruned_share < (0.17 if spec.bits == 8 else 0.13)
    fresh = net()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(0.1)
    load(tmp_path, model=fresh)
    assert same(integers(fresh), integers(model)) and len(integers(model)) == 2
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_the_report_says_the_bytes_that_the_file_takes(tmp_path: Path) -> None:
    model = net()
    batches = [torch.randn(64, 128)]
    report = rarefy.prune(model, "wanda", sparsity=0.5, data=batches, quantize=QuantizeSpec(4, 16), measure=False)
    assert report.sparse_bytes == save(model, tmp_path).pruned_file_bytes
    assert all(row.result["bits"] == 4 for row in report.sites)


@pytest.mark.skipif(not available(), reason="the native module is not built")
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_compiling_packs_these_integers_and_rounds_nothing_again(spec: QuantizeSpec, packs: None) -> None:
    model = rounded(spec)
    x = torch.randn(2, 128)
    fast = rarefy.compile(model, x, weights=f"int{spec.bits}")
    layers = {name: m for name, m in fast.layers.named_modules() if isinstance(m, SparseLinear)}
    assert set(layers) == {"0", "2"}
    for name, wanted in integers(model).items():
        packed = layers[name].plan.at(2)
        assert packed is not None and packed.quantized is not None
        assert torch.equal(packed.quantized.values, wanted.values)
        assert torch.equal(packed.quantized.scale, wanted.scale)
        close = wanted.scale.max(1, keepdim=True).values * 7 / 131070  # what the kernels' own 16-bit scales may add
        assert ((packed.to_dense() - wanted.dequantize()).abs() <= close * 1.01).all()
    assert (fast(x) - model(x)).abs().max() < 1e-4 * model(x).abs().max()


@pytest.mark.skipif(not available(), reason="the native module is not built")
def test_without_the_grid_kept_the_integers_would_be_others(prefer: Callable[..., None]) -> None:
    """What compiling did before: it finds other scales, so the model that runs is not the one that was made."""
    model = rounded(QuantizeSpec(4, 16))
    plain = Precision("int4").stored(model[0].weight.detach())
    assert isinstance(plain, QuantizedWeight)
    wanted = integers(model)["0"]
    assert not torch.equal(plain.values, wanted.values)
    kept = Precision("int4").stored(model[0].weight.detach(), None, wanted)
    assert kept is wanted


def test_other_types_than_the_grid_round_anew_and_say_so() -> None:
    codes = integers(rounded(QuantizeSpec(4, 16)))["0"]
    assert Precision("int8").own(codes) is None
    assert "4-bit integers with a scale for 16 inputs were rounded anew" in Precision("int8").rounds_anew(codes)
    assert Precision("int4").rounds_anew(codes) == Precision("fp32").rounds_anew(codes) == ""
    row = integers(rounded(QuantizeSpec(4)))["0"]
    wide = Precision("int8").own(row)
    assert wide is not None and wide.bits == 8 and torch.equal(wide.dequantize(), row.dequantize())
    assert Precision("int4").own(integers(rounded(QuantizeSpec(8)))["0"]) is None


@pytest.mark.skipif(not available(), reason="the native module is not built")
def test_explain_says_what_was_rounded_anew(packs: None) -> None:
    text = str(rarefy.compile(rounded(QuantizeSpec(4, 16)), torch.randn(2, 128), weights="int8").explain())
    assert text.count("rounded anew") == 2


@pytest.mark.skipif(not available(), reason="the native module is not built")
def test_a_saved_compiled_model_comes_back_with_its_integers(tmp_path: Path, packs: None) -> None:
    model, x = rounded(QuantizeSpec(4, 16)), torch.randn(2, 128)
    fast = rarefy.compile(model, x, weights="int4")
    save(fast, tmp_path)
    again = load(tmp_path, model=net())
    held = [m.plan.at(2) for m in again.layers.modules() if isinstance(m, SparseLinear)]
    for packed, wanted in zip(held, integers(model).values(), strict=True):
        assert torch.equal(packed.to_dense().sign(), wanted.values.sign().float())
    assert torch.equal(again(x), fast(x))


def test_weights_that_moved_are_stored_as_they_are(tmp_path: Path) -> None:
    model = rounded(QuantizeSpec(8))
    with torch.no_grad():
        model[0].weight[0, 0] += 0.01
    report = save(model, tmp_path)
    assert {t.name: t.encoding for t in report.pruned} == {"0.weight": "sparse-bitmask", "2.weight": "int8"}
    fresh = load(tmp_path, model=net())
    assert torch.equal(fresh[0].weight, model[0].weight) and set(integers(fresh)) == {"2"}


def test_half_precision_models_keep_their_integers_too(tmp_path: Path) -> None:
    model = net().bfloat16()
    batches = [torch.randn(64, 128).bfloat16()]
    rarefy.prune(model, "gptq", sparsity=0.5, data=batches, measure=False)
    save(model, tmp_path)
    fresh = load(tmp_path, model=net().bfloat16())
    assert same(integers(fresh), integers(model)) and len(integers(model)) == 2
    assert fresh[0].weight.dtype == torch.bfloat16 and torch.equal(fresh[0].weight, model[0].weight)


def test_what_fails_puts_weights_and_grids_back() -> None:
    model = rounded(QuantizeSpec(8))
    before, grid = integers(model), grid_of(model[0])

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rarefy.prune(model, "gptq", sparsity=0.7, bits=4, data=[torch.randn(64, 128)], measure=False, progress=stop)
    assert same(integers(model), before) and grid_of(model[0]) is grid


def test_pruning_again_without_rounding_forgets_the_grid() -> None:
    model = rounded(QuantizeSpec(8))
    rarefy.prune(model, "sparsegpt", sparsity=0.7, data=[torch.randn(64, 128)], measure=False)
    assert not integers(model) and grid_of(model[0]) is None


@pytest.mark.parametrize(
    ("method", "options", "why"),
    [
        ("sparsegpt", {"repair": "block"}, "off their grid"),
        ("gptq", {}, "rounds by itself"),
        ("synflow", {"rounds": 4}, "prunes in rounds"),
        ("magnitude", {"data": None}, "needs calibration data"),
        ("sparsegpt", {"quantize": QuantizeSpec(4, 48)}, "0: groups of 48 inputs"),
    ],
)
def test_what_does_not_go_together(method: str, options: dict[str, Any], why: str) -> None:
    model = net()
    before = [p.clone() for p in model.parameters()]
    asked = {"data": [torch.randn(8, 128)], "quantize": QuantizeSpec(8), **options}
    with pytest.raises((SparsityError, ValueError), match=why):
        rarefy.prune(model, method, sparsity=0.5, measure=False, **asked)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_layers_that_the_group_does_not_divide_can_be_skipped() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 8))
    asked = {"data": [torch.randn(64, 40)], "quantize": QuantizeSpec(4, 16), "measure": False}
    report = rarefy.prune(model, "wanda", sparsity=0.5, undivided="skip", **asked)
    assert "groups of 16 inputs" in report.skipped["0"] and [row.name for row in report.sites] == ["2"]
    assert set(integers(model)) == {"2"}
