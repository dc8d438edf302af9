"""Repairs after any method, on whole models."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contracts.impostor import assert_beats_impostor
from contracts.models import CASES, bert
from rarefy.core.errors import SparsityError, UnknownNameError
from rarefy.core.site import find_sites
from rarefy.pruning import prune


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 48), nn.Linear(48, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


def model_and_data() -> tuple[nn.Sequential, list[Tensor]]:
    torch.manual_seed(11)
    batches = [torch.randn(128, 16) @ torch.randn(16, 16) * 0.3 + torch.randn(16) for _ in range(3)]
    return nn.Sequential(*(Block() for _ in range(3))), batches


def lost(method: str, repair: str | None, **more: Any) -> float:
    model, batches = model_and_data()
    dense = [model(x).detach() for x in batches]
    prune(model, method, sparsity=0.6, data=batches, repair=repair, **more)
    return sum(float((model(x).detach() - y).square().sum()) for x, y in zip(batches, dense, strict=True))


@pytest.mark.parametrize("repair", ["bias", "weights", "weights+bias", "block", "weights+block"])
@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_every_repair_brings_the_output_back(method: str, repair: str) -> None:
    def better(asked: str | None) -> None:
        assert lost(method, asked) < (0.95 if repair == "bias" else 0.8) * lost(method, None)

    assert_beats_impostor(better, repair, None)


def test_blocks_are_fitted_to_what_they_gave() -> None:
    model, batches = model_and_data()
    report = prune(model, "wanda", sparsity=0.6, data=batches, repair="block")
    for site in report.sites:
        assert site.result["block_error"] < 0.7 * site.result["block_error_unrepaired"]
        assert site.zeros == site.size - site.shape[0] * round(0.4 * site.shape[1])


@pytest.mark.parametrize("case", CASES)
def test_a_block_repair_keeps_every_zero_and_hook_free(case: str) -> None:
    found = CASES[case]()
    report = prune(found.model, "magnitude", sparsity=0.5, data=found.batches, repair="block")
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert any(site.result["block_error"] < site.result["block_error_unrepaired"] for site in report.sites)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in found.model.modules())
    assert all(parameter.grad is None for parameter in found.model.parameters())


def test_with_corrected_targets_blocks_are_fitted_to_the_dense_model() -> None:
    plain, fitted = lost("sparsegpt", None, corrected=True), lost("sparsegpt", "block", corrected=True)
    assert fitted < 0.9 * plain


def test_a_bias_shared_or_absent() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8)), torch.randn(32, 8) + 1.0
    report = prune(model, "magnitude", sparsity=0.5, data=[x], repair="bias")
    assert report.sites[0].result["bias"] == "none to repair"
    assert "bias" not in report.sites[1].result
    assert model[0].bias is None


def test_half_precision_models_stay_half_and_gain() -> None:
    case = bert()
    model = case.model.to(torch.bfloat16)
    report = prune(model, "magnitude", sparsity=0.5, data=case.batches, repair="weights+bias+block")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    gains = [s.result["block_error"] <= s.result["block_error_unrepaired"] for s in report.sites if "layer" in s.name]
    assert gains
    assert all(gains)


def test_an_error_puts_biases_back_too() -> None:
    model, batches = model_and_data()
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def stop(name: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, "wanda", sparsity=0.5, data=batches, repair="bias+block", progress=stop)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_unknown_and_senseless_repairs() -> None:
    model, batches = model_and_data()
    with pytest.raises(UnknownNameError, match="repair: 'wieghts' is not registered; did you mean 'weights'"):
        prune(model, "magnitude", sparsity=0.5, data=batches, repair="wieghts")
    with pytest.raises(SparsityError, match="refits its weights itself"):
        prune(model, "sparsegpt", sparsity=0.5, data=batches, corrected=True, repair="weights")
    assert all((site.parameter != 0).all() for site in find_sites(model)[0])
